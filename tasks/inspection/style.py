"""What every inspection page shares: its look, its little script, and the rule that nothing else may run or load.

The Content-Security-Policy names the style and the script by their SHA-256 and allows pictures as data only: even text
from the web that slipped through unescaped could neither run nor call anywhere.
"""

import base64
import hashlib
from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1f2328;--soft:#59636e;--line:#d0d7de;--box:#f6f8fa;--link:#0969da;
--in:#1a7f37;--out:#bc4c00;--a:#0969da;--b:#bc4c00;--c:#8250df;--gap:.5rem}
@media(prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--soft:#9198a1;--line:#30363d;--box:#151b23;
--link:#58a6ff;--in:#3fb950;--out:#f0883e;--a:#58a6ff;--b:#f0883e;--c:#bc8cff}}
*{box-sizing:border-box}html{scroll-behavior:smooth}
body{font:15px/1.5 system-ui,sans-serif;margin:0;background:var(--bg);color:var(--fg)}
main{max-width:1480px;margin:0 auto;padding:0 1.25rem 5rem}
nav:empty{display:none!important}
nav{position:sticky;top:0;z-index:3;background:var(--bg);border-bottom:1px solid var(--line);padding:.5rem 1.25rem;
display:flex;gap:.25rem 1.25rem;flex-wrap:wrap;font-size:14px}
a{color:var(--link);text-underline-offset:2px}a:focus-visible,summary:focus-visible,[tabindex]:focus-visible,
input:focus-visible{outline:2px solid var(--link);outline-offset:2px}
h1{font-size:1.6rem;line-height:1.25;margin:1.25rem 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.5rem 0 .25rem;padding-top:.75rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.5rem 0 .35rem;overflow-wrap:anywhere}h3 small,h2 small{font-weight:400;color:var(--soft)}
p{margin:.3rem 0 .7rem;max-width:78ch}.soft{color:var(--soft)}
code{font:.92em ui-monospace,monospace;background:var(--box);border-radius:4px;padding:.1em .3em;overflow-wrap:anywhere}
.scroll{overflow-x:auto;max-width:100%;scrollbar-width:thin}
table{border-collapse:collapse;font-size:14px;margin:.4rem 0 .8rem}
th,td{border-bottom:1px solid var(--line);padding:.25rem .75rem .25rem 0;text-align:left;vertical-align:top}
th{font-weight:600;white-space:nowrap}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.now{background:var(--box)}tr.now td:first-child{font-weight:600}
details{margin:.3rem 0 .8rem;font-size:14px}summary{cursor:pointer;color:var(--soft);width:max-content;max-width:100%}
details ol{margin:.4rem 0;padding-left:2.6rem;overflow-wrap:anywhere;color:var(--soft)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(20rem,100%),1fr));gap:1rem;margin:.75rem 0}
.card{border:1px solid var(--line);border-radius:8px;padding:.75rem 1rem;min-width:0}
.card h3{margin:0 0 .2rem}.card p{margin:.2rem 0;font-size:14px}
.panels{display:flex;flex-wrap:wrap;gap:0 2.5rem;align-items:flex-start}.panel{flex:1 1 24rem;min-width:0}
.panel.wide{flex-basis:100%}
.charts{display:flex;flex-wrap:wrap;gap:1rem 1.5rem;margin:.5rem 0}
.chart{margin:0;flex:1 1 18rem;max-width:26rem;min-width:min(16rem,100%)}.chart figcaption{font-size:14px}
.legend{color:var(--soft);font-size:13px}.legend span{margin-right:.9em;white-space:nowrap}
.legend svg{display:inline-block;width:26px;height:8px;margin-right:.35em;vertical-align:middle}
svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font:11px system-ui,sans-serif}
.axis{stroke:var(--line);fill:none}.now-line{stroke:var(--fg);stroke-dasharray:2 3}
.cursor{stroke:var(--link);stroke-width:1.5}
svg .now-text{fill:var(--fg)}
.s0,.s1,.s2{fill:none;stroke-width:2;stroke-linejoin:round}.s0{stroke:var(--a)}.s1{stroke:var(--b);stroke-dasharray:6 3}
.s2{stroke:var(--c);stroke-dasharray:2 3}.d0,.d1,.d2{stroke:none}.d0{fill:var(--a)}.d1{fill:var(--b)}.d2{fill:var(--c)}
.bar{fill:var(--a)}
.tune{display:none;gap:.4rem 1rem;align-items:center;flex-wrap:wrap;background:var(--box);border:1px solid var(--line);
border-radius:8px;padding:.5rem .9rem;margin:.5rem 0;font-size:14px}
.follow{position:sticky;top:2.3rem;z-index:2}
.js .tune{display:flex}.tune input{flex:1 1 14rem;max-width:28rem;accent-color:var(--link)}
.tune output{font-variant-numeric:tabular-nums}
.row{display:flex;gap:1rem;align-items:flex-start;margin:.35rem 0 1.1rem;min-width:0}
.row>.beside{flex:1;min-width:0}.beside .scroll{padding-bottom:.4rem}.beside details{margin:0}
.strip{display:flex;gap:var(--gap);width:max-content;min-width:100%}
.wrap{display:flex;flex-wrap:wrap;gap:var(--gap);align-items:flex-end}
.band{border:1px solid var(--line);border-radius:6px;padding:.2rem .4rem .4rem;flex:none}
.band>.label{font-size:12px;color:var(--soft);white-space:nowrap;margin-bottom:.2rem}
.band.step.out{border-style:dashed}.shot.out img{opacity:.45}.shot.out b{color:var(--soft);font-weight:400}
.band.step:not(.out){border-color:var(--in);border-width:2px}
.band.step:not(.out)>.label::after{content:" \\2713";color:var(--in);font-weight:700}
.shots{display:flex;gap:.35rem}
figure.shot{margin:0;flex:none;max-width:10rem}figure.shot figcaption{font-size:12px;line-height:1.35;color:var(--soft);
overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
figure.shot b{color:var(--fg);font-weight:600}
figure.shot img,.gone{display:block;height:88px;width:auto;max-width:10rem;
object-fit:contain;border-radius:3px;background:var(--box)}
.gone{width:88px;border:1px dashed var(--line);font-size:11px;color:var(--soft);padding:.3rem;overflow:hidden}
figure.key img,figure.key .gone{border:3px solid var(--fg)}
.row>figure.key{flex:0 0 auto;width:9rem}.row>figure.key img{height:auto;max-height:120px;max-width:100%}
.hit{color:var(--out);font-weight:600;white-space:nowrap}
.pair{border:2px solid var(--in);border-radius:6px;padding:.35rem;flex:none}.pair .shots{align-items:flex-end}
.pair .label{font-size:13px;display:flex;justify-content:space-between;gap:.75rem;font-variant-numeric:tabular-nums}
.pair.out{border:2px dashed var(--out)}.pair .verdict::after{content:"linked";color:var(--in)}
.pair.out .verdict::after{content:"apart";color:var(--out)}
@media(max-width:40rem){main{padding:0 .8rem 4rem}nav{padding:.5rem .8rem}.row{flex-direction:column;gap:.4rem}
.row>.beside{width:100%}h1{font-size:1.3rem}figure.shot img,.gone{height:72px}
nav{position:static}.follow{top:0}}
@media(prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
@media print{nav,.tune{display:none!important}}
"""

SCRIPT: Final = """
document.documentElement.classList.add('js');
for (const panel of document.querySelectorAll('[data-tune]')) {
  const name = panel.dataset.tune, above = panel.dataset.rule === 'above';
  const rows = [...panel.querySelectorAll('table[data-curve] tbody tr')];
  const heads = [...panel.querySelectorAll('table[data-curve] thead th')].map(cell => cell.textContent);
  const slider = panel.querySelector('input'), output = panel.querySelector('output');
  const charts = [...panel.querySelectorAll('svg[data-places]')];
  const lines = charts.map(chart => [chart.querySelector('.cursor'), chart.dataset.places.split(' ')]);
  const marked = [...document.querySelectorAll('[data-' + name + ']')];
  const same = [...document.querySelectorAll('[data-tune="' + name + '"]')];
  const follow = same[same.length - 1] === panel ? [...document.querySelectorAll('[data-follow="' + name + '"]')] : [];
  const sliders = [slider, ...follow.map(label => label.querySelector('input'))];
  const outputs = [output, ...follow.map(label => label.querySelector('output'))];
  const start = Math.max(0, rows.findIndex(row => row.classList.contains('now')));
  const show = place => {
    const cells = [...rows[place].cells].map(cell => cell.textContent), value = parseFloat(rows[place].dataset.x);
    const said = cells.map((cell, at) => heads[at] + ' ' + cell).join(' \\u00b7 ');
    for (const each of outputs) each.textContent = said;
    for (const each of sliders) { each.value = place; each.setAttribute('aria-valuetext', said); }
    for (const [line, places] of lines) {
      line.setAttribute('x1', places[place]); line.setAttribute('x2', places[place]);
      line.removeAttribute('visibility');
    }
    for (const element of marked) {
      const own = parseFloat(element.dataset[name]);
      element.classList.toggle('out', above ? !(own > value) : !(own <= value));
    }
  };
  for (const each of sliders) {
    each.max = rows.length - 1; each.value = start;
    each.addEventListener('input', () => show(Number(each.value)));
  }
}
"""


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY: Final = (
    f"default-src 'none'; img-src data:; style-src {_hashed(STYLE)}; script-src {_hashed(SCRIPT)}; "
    "base-uri 'none'; form-action 'none'"
)
