"""How a report looks: light and dark, on a screen of any width. It fetches nothing and runs nothing."""

from sret_jax.evaluation.report.pictures import FOUND, HOTTEST, OBJECT

HEAD = (
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark">'
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
    "style-src 'unsafe-inline'\">"
)

_PAGE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #e3e6ea; --card: #fff; --page: #f6f7f8; --well: #eceef1;
  --accent: #1d5fd1; --right: #157f3c; --wrong: #c02626; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa5b4; --line: #2d3540; --card: #191f27;
  --page: #10141a; --well: #0c1015; --accent: #7fb0ff; --right: #55c97e; --wrong: #f58383; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 26px; line-height: 1.25; font-weight: 650; margin: 0; letter-spacing: -.015em;
  overflow-wrap: anywhere; }
h2 { font-size: 17px; font-weight: 650; margin: 40px 0 12px; }
p { margin: 6px 0 0; color: var(--soft); max-width: 78ch; overflow-wrap: anywhere; }
a { color: inherit; text-decoration-color: var(--accent); text-underline-offset: 2px; }
a:hover { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 4px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 18px 0 0; font-size: 13px; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 20px; }
.card, .box, .query { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 14px 18px; }
.card b { display: block; font-size: 28px; line-height: 1.25; font-weight: 600; letter-spacing: -.02em; }
.card span { color: var(--soft); font-size: 13px; }
.card.main b { color: var(--accent); }
.two { display: grid; grid-template-columns: 3fr 2fr; gap: 20px; align-items: start; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { padding: 5px 8px; text-align: left; border-bottom: 1px solid var(--line); font-weight: 400;
  vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--soft); font-size: 13px; }
tr:last-child td { border-bottom: 0; }
td.n { text-align: right; white-space: nowrap; width: 1%; }
td.bar { width: 45%; vertical-align: middle; }
.bar i { display: block; height: 8px; border-radius: 4px; background: var(--accent); min-width: 2px; }
details { margin-top: 12px; }
summary { cursor: pointer; color: var(--soft); font-size: 13px; }
details.box { margin-top: 20px; }
details.box > summary { font-size: 15px; color: var(--ink); }
details > .row, details > table { margin-top: 10px; }
.query { margin-bottom: 16px; display: grid; grid-template-columns: 220px 1fr; gap: 24px; }
.query > * { min-width: 0; }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(124px, 1fr)); gap: 14px 12px; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: 13px; line-height: 1.4; margin-top: 5px; color: var(--soft); overflow-wrap: anywhere; }
figcaption a, figcaption bdi { color: var(--ink); }
figcaption .name { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden; }
.name a { text-decoration-color: var(--line); }
.asked figcaption .name { font-weight: 600; }
.frame { aspect-ratio: 4 / 3; border-radius: 8px; background: var(--well); overflow: hidden; }
.right .frame { box-shadow: 0 0 0 2px var(--card), 0 0 0 4px var(--right); }
.wrong .frame { box-shadow: 0 0 0 2px var(--card), 0 0 0 4px var(--wrong); }
.right b { color: var(--right); } .wrong b { color: var(--wrong); }
.chip { white-space: nowrap; border-radius: 99px; padding: 0 8px; background: var(--well); color: var(--soft); }
.chip.found { color: var(--ink); }
.chip.found::before { content: ""; display: inline-block; width: 8px; height: 8px; border-radius: 4px;
  margin-right: 5px; background: var(--found); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; color: var(--soft); font-size: 13px; margin-bottom: 12px; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px;
  vertical-align: -1px; }
.maps { grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); margin-bottom: 16px; }
footer { margin-top: 40px; color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
@media (max-width: 900px) { .two { grid-template-columns: 1fr; } }
@media (max-width: 700px) {
  main { padding: 24px 16px 48px; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; }
  .query { grid-template-columns: 1fr; gap: 16px; padding: 14px; }
  .cards { grid-template-columns: 1fr 1fr; }
  .asked { max-width: 300px; }
}
"""

# A picture is a popover that is also shown where it stands; opened, the same element fills the screen.
_PICTURE = """
.view, .view[popover] { display: block; position: static; inset: auto; width: 100%; height: 100%; max-width: none;
  max-height: none; margin: 0; padding: 0; border: 0; background: none; color: inherit; overflow: visible; }
.view button { all: unset; display: block; width: 100%; height: 100%; cursor: zoom-in; }
.view button:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; }
.view img { display: block; width: 100%; height: 100%; object-fit: contain; }
.view p { display: none; }
.view:popover-open { position: fixed; inset: 0; margin: auto; width: fit-content; height: fit-content; color: #fff; }
.view:popover-open button { cursor: zoom-out; height: auto; }
.view:popover-open img { width: min(1100px, 94vw); height: 84vh; }
.view:popover-open p { display: block; font-size: 15px; color: inherit; max-width: 94vw; margin: 10px 0 0;
  text-align: center; }
.view:popover-open a:hover { color: inherit; }
.view::backdrop { background: rgb(0 0 0 / .85); }
"""

_KEYS = f":root {{ --found: rgb{FOUND}; }}\n" + "".join(
    f".legend .{name} {{ background: rgb{colour}; }}\n"
    for name, colour in {"found": FOUND, "object": OBJECT, "hottest": HOTTEST}.items()
)
STYLE = _PAGE + _PICTURE + _KEYS
