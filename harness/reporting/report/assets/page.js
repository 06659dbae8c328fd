"use strict";
(() => {
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
    button.setAttribute("aria-pressed", String(isDark()));
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
      fixedrange: true, ticks: "", title: { standoff: 12 }, ...given,
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
    return Plotly.react(place, data, layout, { displayModeBar: false, responsive: true });
  }

  function drawAll() {
    document.querySelectorAll("[data-chart]").forEach(draw);
  }

  // ---- samples

  const PER_PAGE = 25, FAILED = -2, NOT_ATTEMPTED = -3;
  const data = parsed("sample-data");
  const list = byId("sample-list"), search = byId("sample-search"), form = byId("sample-form");
  const back = byId("sample-back"), next = byId("sample-next");
  const labels = data.labels.length, classes = data.classes.length, metrics = data.metrics.length;
  let shown = [], page = 0;

  const folded = (text) => text.normalize("NFC").toLowerCase();
  const golds = (sample) => (Array.isArray(sample.g) ? sample.g.join("  |  ") : data.classes[sample.g]);
  const haystacks = data.samples.map((sample) => {
    const places = [...sample.t, ...(sample.a || []).filter((at) => at >= 0)];
    return folded([sample.i, golds(sample), ...new Set(places.map((at) => data.texts[at]))].join("\n"));
  });

  function valueOf(sample, row) {
    if (sample.p[row] <= FAILED) return null;
    return metrics ? sample.v[row * metrics] / 1000 : Number(sample.p[row] === sample.g);
  }

  function tally(sample) {
    let right = 0, scored = 0;
    for (let row = 0; row < labels; row += 1) {
      const value = valueOf(sample, row);
      if (value !== null) { scored += 1; right += value >= 1; }
    }
    return `${right} of ${scored} right`;
  }

  function verdict(sample, row) {
    const code = sample.p[row];
    if (code === NOT_ATTEMPTED) return ["not attempted", "quiet"];
    if (code === FAILED) return [`failed: ${(sample.e || {})[row] || "unknown"}`, "bad"];
    const value = valueOf(sample, row);
    if (metrics) return [value >= 1 ? "✓" : value > 0 ? "partly" : "✗", value >= 1 ? "good" : value > 0 ? "" : "bad"];
    return value ? ["✓ right", "good"] : ["✗ wrong", "bad"];
  }

  function columns() {
    if (metrics) return ["Answer", ...data.metrics.map((name) => name.replaceAll("_", " "))];
    const written = data.samples.some((sample) => sample.a);
    return ["Predicted", ...(written ? ["Written"] : data.classes.map((name) => `log p(${name})`))];
  }

  function cells(sample, row) {
    const answer = sample.a && sample.a[row] >= 0 ? data.texts[sample.a[row]] : "";
    if (metrics) {
      const values = sample.v.slice(row * metrics, (row + 1) * metrics);
      return [["answer", answer || "(empty)"], ...values.map((v) => ["num", v === null ? "–" : (v / 1000).toFixed(2)])];
    }
    const code = sample.p[row];
    const first = ["", code >= 0 ? data.classes[code] : code === -1 ? "no label" : "–"];
    if (sample.a) return [first, ["answer", answer]];
    const own = sample.l ? sample.l.slice(row * classes, (row + 1) * classes) : new Array(classes).fill(1);
    return [first, ...own.map((v) => ["num", v > 0 ? "–" : (v / 100).toFixed(2).replace("-", "−")])];
  }

  function table(sample) {
    const made = element("table");
    const caption = element("caption");
    caption.append(element("span", "", metrics ? "Answers of the strategies" : "Predictions of the strategies; log p in nats"));
    made.append(caption);
    const head = element("tr");
    ["Strategy", "Result", ...columns()].forEach((title, i) => {
      const cell = element("th", i > 2 ? "num" : "", title);
      cell.scope = "col";
      head.append(cell);
    });
    made.append(element("thead"));
    made.tHead.append(head);
    const body = made.createTBody();
    for (let row = 0; row < labels; row += 1) {
      const line = body.insertRow();
      const name = element("th", "", data.labels[row]);
      name.scope = "row";
      const [text, mark] = verdict(sample, row);
      line.append(name, element("td", mark, text));
      cells(sample, row).forEach(([className, content]) => line.append(element("td", className, content)));
    }
    const scroll = element("div", "scroll");
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", `Strategies on sample ${sample.i}`);
    scroll.append(made);
    return scroll;
  }

  function opened(details, sample) {
    data.fields.forEach((name, i) => {
      const full = element("p", "full");
      full.append(element("b", "", name), document.createTextNode(data.texts[sample.t[i]]));
      details.append(full);
    });
    const gold = element("p", "full");
    gold.append(element("b", "", "gold"), document.createTextNode(golds(sample)));
    details.append(gold, table(sample));
    Object.entries(sample.r || {}).forEach(([row, at]) => {
      const thought = element("p", "full");
      thought.append(element("b", "", `reasoning of ${data.labels[row]}`), document.createTextNode(data.texts[at]));
      details.append(thought);
    });
  }

  function item(sample) {
    const made = element("li"), details = element("details"), summary = element("summary");
    const glance = data.texts[sample.t[data.glance]];
    summary.append(element("span", "id", sample.i), element("span", "text", glance), element("span", "tally", tally(sample)));
    details.append(summary);
    details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) opened(details, sample); });
    made.append(details);
    return made;
  }

  function drawPage() {
    const pages = Math.max(1, Math.ceil(shown.length / PER_PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    list.replaceChildren(...shown.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map(item));
    byId("sample-page").textContent = `Page ${page + 1} of ${pages}`;
    back.disabled = page === 0;
    next.disabled = page === pages - 1;
  }

  function filter() {
    const kind = form.elements.kind.value, wanted = folded(search.value.trim());
    const bit = kind ? data.bits[kind] : 0;
    shown = data.samples.filter((sample, i) => (sample.f & bit) === bit && (!wanted || haystacks[i].includes(wanted)));
    const many = shown.length === 1 ? "sample" : "samples";
    byId("sample-count").textContent = `${shown.length.toLocaleString("en")} ${many} of the ${data.samples.length.toLocaleString("en")} in this file`;
    page = 0;
    drawPage();
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", filter);
  back.addEventListener("click", () => { page -= 1; drawPage(); });
  next.addEventListener("click", () => { page += 1; drawPage(); });

  filter();
  themed();
})();
