const root = document.documentElement;
const byId = (id) => document.getElementById(id);
const parsed = (id) => JSON.parse(byId(id).textContent);

// Every text of a data set reaches the page through textContent.
function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// ---- theme

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 46rem)");
const button = byId("theme");

function stored() {
  try { return localStorage.getItem("report-theme"); } catch { return null; }
}

function isDark() {
  const chosen = root.dataset.theme;
  return chosen ? chosen === "dark" : dark.matches;
}

function themed() {
  button.textContent = isDark() ? "Use light theme" : "Use dark theme";
  drawAll();
}

button.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("report-theme", root.dataset.theme); } catch { /* files may have no storage */ }
  themed();
});
dark.addEventListener("change", themed);
narrow.addEventListener("change", themed);
const kept = stored();
if (kept === "dark" || kept === "light") root.dataset.theme = kept;

// ---- charts

const specs = parsed("chart-data");
const COLOUR = /^(var|alpha)\((--[a-z0-9-]+)(?:, ([0-9.]+))?\)$/;

function colour(style, text) {
  const found = COLOUR.exec(text);
  if (!found) return text;
  const value = style.getPropertyValue(found[2]).trim();
  return found[1] === "var" ? value : value + Math.round(255 * Number(found[3])).toString(16).padStart(2, "0");
}

function coloured(style, value) {
  if (typeof value === "string") return colour(style, value);
  if (Array.isArray(value)) return value.map((item) => coloured(style, item));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(style, item)]));
}

function axis(style, given) {
  return {
    automargin: true, gridcolor: style.getPropertyValue("--rule").trim(), linecolor: style.getPropertyValue("--line").trim(),
    fixedrange: true, ticks: "", ...given, title: { standoff: 12, font: { size: 13 }, ...given.title },
  };
}

// Names are escaped; one with a character reference is left whole.
const shortened = (name) => (name.length > 16 && !name.includes("&") ? `${name.slice(0, 15)}…` : name);

function draw(place) {
  const style = getComputedStyle(root);
  const spec = coloured(style, specs[place.dataset.chart]);
  const ink = style.getPropertyValue("--ink").trim();
  const small = narrow.matches && place.dataset.narrowHeight;
  place.style.height = `${small ? place.dataset.narrowHeight : place.dataset.height}px`;
  const above = small ? { showticklabels: false } : {};
  const names = small ? spec.layout.yaxis.categoryarray.map((text) => ({
    text, x: 0, xref: "paper", xanchor: "left", y: text, yshift: 17, showarrow: false, font: { size: 12 },
  })) : [];
  const tight = narrow.matches && spec.data[0].type === "heatmap" && !place.closest(".wide");
  const data = tight ? spec.data.map((trace) => ({ ...trace, showscale: false })) : spec.data;
  const rows = tight ? { tickvals: spec.data[0].y, ticktext: spec.data[0].y.map(shortened) } : {};
  const layout = {
    margin: { l: 12, r: 12, t: 12, b: 12 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: style.getPropertyValue("--font").trim(), size: 13, color: ink }, dragmode: false,
    hoverlabel: { bgcolor: style.getPropertyValue("--panel").trim(), bordercolor: style.getPropertyValue("--faint").trim(), font: { color: ink } },
    ...spec.layout, annotations: names, xaxis: axis(style, spec.layout.xaxis), yaxis: { ...axis(style, spec.layout.yaxis), ...above, ...rows },
  };
  Plotly.react(place, data, layout, { displayModeBar: false, responsive: true });
  if (place.dataset.asks || !spec.data.some((trace) => trace.customdata)) return;
  place.dataset.asks = "true";
  place.on("plotly_click", (event) => { if (event.points[0].customdata) showSamples(event.points[0].customdata); });
}

function drawAll() {
  document.querySelectorAll("[data-chart]").forEach(draw);
}

// ---- copying

const told = byId("told");

function copied(button, text) {
  const done = () => {
    told.textContent = `${button.textContent}: done`;
    button.dataset.done = "true";
    setTimeout(() => { delete button.dataset.done; }, 1500);
  };
  const byHand = () => {
    const area = element("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    done();
  };
  // Files that are opened by some browsers have no clipboard.
  if (navigator.clipboard) navigator.clipboard.writeText(text).then(done, byHand);
  else byHand();
}

document.querySelectorAll("[data-copy]").forEach((button) => {
  button.addEventListener("click", () => copied(button, byId(button.dataset.copy).textContent));
});
