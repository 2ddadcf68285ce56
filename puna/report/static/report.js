const css = n => getComputedStyle(document.documentElement).getPropertyValue(n).trim();
const legend = (el, plot, data) => {
  const named = data.filter(t => t.name && t.showlegend !== false).sort((a, b) => (a.legendrank ?? 1000) - (b.legendrank ?? 1000));
  if (named.length < 2) return;
  for (const t of named) {
    const button = document.createElement('button'), key = document.createElement('i');
    key.style.borderTopColor = t.line?.color ?? t.marker?.color; key.style.borderTopStyle = { dash: 'dashed', dot: 'dotted' }[t.line?.dash] ?? 'solid';
    button.ariaPressed = true; button.append(key, t.name); el.append(button);
    button.onclick = () => {
      const on = button.ariaPressed !== 'true'; button.ariaPressed = on;
      Plotly.restyle(plot, { visible: on }, data.flatMap((other, i) => other.name === t.name ? [i] : []));
    };
  }
};
const draw = el => {
  const f = JSON.parse(el.nextElementSibling.textContent), axis = { gridcolor: css('--line'), zeroline: false, automargin: true };
  f.layout = Object.assign({ paper_bgcolor: 'transparent', plot_bgcolor: 'transparent', font: { color: css('--fg') }, height: 360,
    margin: { l: 50, r: 20, t: 20, b: 45 }, xaxis: {}, yaxis: {} }, f.layout, { showlegend: false });
  for (const k of Object.keys(f.layout).filter(k => /^[xy]axis/.test(k))) f.layout[k] = Object.assign({}, axis, f.layout[k]);
  el.dataset.drawn = 1; el.style.minHeight = 0;
  const plot = el.querySelector('.plot'); legend(el.querySelector('.legend'), plot, f.data);
  Plotly.newPlot(plot, f.data, f.layout, { displayModeBar: false, responsive: true });
};
const shown = el => !el.dataset.drawn && !el.closest('details:not([open])');
const all = root => [...root.querySelectorAll('.figure')].filter(shown).forEach(draw);
all(document);
for (const fold of document.querySelectorAll('details')) fold.addEventListener('toggle', () => fold.open && all(fold));
addEventListener('beforeprint', () => all(document));
