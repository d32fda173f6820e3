"""How the HTML report looks: colours, type, tables, paper.

In: nothing. Out: the style sheet, and the colours that drawings share with it. Series are Okabe and
Ito's colours, which colour-blind people can tell apart; in the dark they are lighter.
"""

INK, SOFT, LINE, PAPER = "#1b1f24", "#5b6570", "#d5dade", "#ffffff"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
CONTROL = "#767d85"

# The name of each colour of a drawing, which the style sheet gives a value for light and dark.
VARIABLES = {
    INK: "--ink",
    SOFT: "--soft",
    LINE: "--line",
    PAPER: "--paper",
    CONTROL: "--control",
    **{color: f"--series-{number}" for number, color in enumerate(SERIES)},
}
DARK = {
    INK: "#e8eaed",
    SOFT: "#a3acb5",
    LINE: "#3a4249",
    PAPER: "#15191d",
    CONTROL: "#969da5",
    "#0072b2": "#4fa8e0",
    "#d55e00": "#f0813a",
    "#009e73": "#2fc397",
    "#cc79a7": "#dd97bf",
    "#56b4e9": "#8ccbf2",
    "#e69f00": "#f0b73f",
}


def _values(dark: bool) -> str:
    """The colours of one scheme."""
    pairs = ((name, DARK[color] if dark else color) for color, name in VARIABLES.items())
    return " ".join(f"{name}: {value};" for name, value in pairs)


STYLE = f"""\
:root {{ color-scheme: light dark; {_values(False)} --tint: #f1f4f7; --shade: #8a949e; }}
@media (prefers-color-scheme: dark) {{
  :root {{ {_values(True)} --tint: #1f252b; --shade: #7c8791; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }}
main {{ max-width: 78rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }}
h1 {{ font-size: 1.65rem; line-height: 1.25; margin: 0 0 1rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.25rem; margin: 2rem 0 0.7rem; padding-top: 0.9rem;
  border-top: 1px solid var(--line); }}
h3 {{ font-size: 1.02rem; margin: 1.8rem 0 0.6rem; }}
p, ul, dl {{ max-width: 62rem; margin: 0 0 1rem; }}
p, li, figcaption {{ overflow-wrap: anywhere; }}
li {{ margin-bottom: 0.35rem; }}
.verdicts {{ display: grid; gap: 1rem; margin: 0 0 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }}
.verdict {{ max-width: none; margin: 0; font-size: 0.95rem; line-height: 1.45;
  background: var(--tint); border-left: 4px solid var(--series-0);
  padding: 0.85rem 1.1rem 0.85rem 2.1rem; border-radius: 0 6px 6px 0; }}
.verdict li:first-child {{ font-weight: 600; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 0.3rem 1.2rem; }}
dt {{ color: var(--soft); }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
code, pre {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: 0.88em; }}
pre {{ background: var(--tint); padding: 0.8rem 1rem; border-radius: 6px; white-space: pre-wrap;
  overflow-wrap: anywhere; }}
/* A bar that stays and a shadow at the side where the table goes on: the covers of the paper's
   colour move with the table, the shadow does not. */
.scroll {{ overflow-x: auto; margin: 0 0 1.2rem; scrollbar-color: var(--shade) var(--tint);
  background: linear-gradient(to left, var(--paper) 40%, transparent) right / 3rem 100% no-repeat
    local, linear-gradient(to left, var(--shade), transparent) right / 1rem 100% no-repeat scroll,
    var(--paper); }}
.scroll::-webkit-scrollbar {{ height: 9px; }}
.scroll::-webkit-scrollbar-track {{ background: var(--tint); border-radius: 5px; }}
.scroll::-webkit-scrollbar-thumb {{ background: var(--shade); border-radius: 5px; }}
.scroll:focus-visible, pre:focus-visible {{ outline: 2px solid var(--series-0); }}
table {{ border-collapse: collapse; font-size: 0.82rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.34rem 0.5rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }}
thead th {{ color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal;
  min-width: 3.4rem; border-bottom: 2px solid var(--line); }}
th:first-child {{ text-align: left; position: sticky; left: 0; background: var(--paper);
  max-width: 20rem; white-space: normal; }}
tbody th {{ font-weight: 500; }}
.baseline th, .baseline td {{ background: var(--tint); font-weight: 650; }}
figure {{ margin: 1rem 0 1.8rem; }}
figcaption {{ color: var(--soft); font-size: 0.9rem; max-width: 62rem; }}
.drawing svg {{ display: block; max-width: 100%; height: auto; }}
.narrow {{ display: none; }}
.drawing img {{ display: block; max-width: 100%; background: #ffffff; border-radius: 4px; }}
@media (max-width: 40rem) {{
  main {{ padding: 1rem 0.9rem 3rem; }}
  dl {{ grid-template-columns: 1fr; gap: 0; }}
  dd {{ margin-bottom: 0.5rem; }}
  .wide {{ display: none; }}
  .narrow {{ display: block; }}
  .drawing img {{ max-width: none; width: 44rem; }}
  th:first-child {{ max-width: 7.5rem; overflow-wrap: break-word; }}
}}
@media print {{
  :root {{ color-scheme: light; {_values(False)} --tint: #f1f4f7; }}
  body {{ font-size: 10pt; }}
  main {{ max-width: none; padding: 0; }}
  .scroll {{ overflow: visible; background: none; }}
  .wide {{ display: block; }}
  .narrow {{ display: none; }}
  .drawing img {{ max-width: 100%; width: auto; }}
  table {{ font-size: 7.4pt; }}
  th, td {{ padding: 0.15rem 0.28rem; white-space: normal; }}
  thead th {{ min-width: 0; }}
  tr, figure, .verdict {{ break-inside: avoid; }}
  h2, h3 {{ break-after: avoid; }}
  .drawing svg {{ max-width: 18cm; }}
}}
@page {{ size: A4 landscape; margin: 12mm; }}
"""
