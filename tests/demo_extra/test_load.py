"""Many clients at the same time, for ten seconds; `make demo-load` is the long version."""

import random

from demo_extra.load import Found, load, request, wrong_answers


def test_clients_at_the_same_time_get_a_single_users_answers(server):
    found = load(server.url, server.pid, clients=4, seconds=10)
    assert found.errors == []
    assert len(found.answers) >= 4
    assert wrong_answers(found) == []


def test_a_wrong_answer_is_found(gradio_client):
    way = request(random.Random(0))
    assert wrong_answers(Found(answers=[(way, ("no such answer", "nor this", (0,)))])) == [way]


def test_growth_is_told_from_the_samples_after_the_warm_up():
    resident = [(float(at), 100.0 + at) for at in range(61)]
    warm, end, most = Found(resident=resident).memory(warm_up=20)
    assert (warm, end, most) == (125.0, 155.0, 160.0)
