"""The page's style sheet: system fonts, light and dark, nothing fetched."""

STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --dim: #5b6168; --line: #d9dce0; --page: #f6f7f8;
  --card: #ffffff; --accent: #0072b2; --warning: #9a5b00; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ea; --dim: #a3aab2; --line: #3a3f45;
  --page: #17191c; --card: #202327; --accent: #5fb4e8; --warning: #f0b65a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 28px 20px 60px; overflow-wrap: break-word; }
h1 { font-size: 1.8rem; margin: 0; line-height: 1.2; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .7rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
.where, figcaption, .note { color: var(--dim); font-size: .92rem; }
.where { margin: .3rem 0 0; }
.question { max-width: 75ch; }
.answer, .warning { background: var(--card); border: 1px solid var(--line);
  border-left: 5px solid var(--accent); border-radius: 6px; padding: .9rem 1.2rem; margin: 1rem 0; }
.answer p { margin: 0 0 .4rem; max-width: 95ch; }
.answer ul { margin: 0; padding-left: 1.2rem; color: var(--dim); font-size: .95rem; }
.answer .verdict { font-weight: 700; font-size: 1.1rem; }
.warning { border-left-color: var(--warning); font-weight: 600; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .6rem; text-align: right; vertical-align: top; border-top: 1px solid var(--line); }
thead th { border-top: 0; vertical-align: bottom; font-size: .8rem; line-height: 1.25; color: var(--dim);
  font-weight: 600; }
th:first-child { text-align: left; white-space: nowrap; position: sticky; left: 0; background: var(--card); }
td { white-space: nowrap; }
td small, th small { display: block; color: var(--dim); font-size: .8rem; font-weight: 400; }
th small { margin-left: 1.6em; }
th i { display: inline-block; width: .75em; height: .75em; margin-right: .5em; border-radius: 50%;
  box-shadow: 0 0 0 1px #ffffffb0; }
.notes, .facts { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .9rem 0 0;
  font-size: .88rem; color: var(--dim); }
dt { font-weight: 600; color: var(--text); }
dd { margin: 0; min-width: 0; }
figure { margin: 0; }
.card { background: #ffffff; border: 1px solid var(--line); border-radius: 6px; padding: 14px;
  overflow-x: auto; }
.card img { display: block; width: 100%; min-width: 680px; height: auto; }
figcaption { margin-top: .5rem; max-width: 95ch; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(270px, 1fr)); gap: 0 2rem; }
details { margin-top: 1.5rem; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: .8rem 1rem; font-size: .82rem; line-height: 1.4; }
@media (max-width: 640px) { main { padding: 18px 12px 40px; } .notes { grid-template-columns: 1fr; }
  .notes dd { margin-bottom: .5rem; } }
"""
