// ---- samples

const PER_PAGE = 25, FAILED = -2, NOT_ATTEMPTED = -3;
const data = parsed("sample-data");
const list = byId("sample-list"), search = byId("sample-search"), form = byId("sample-form");
const back = byId("sample-back"), next = byId("sample-next");
const wrong = byId("sample-wrong"), right = byId("sample-right"), part = byId("sample-slice");
const labels = data.labels.length, classes = data.classes.length, metrics = data.metrics.length;
const hasPrompts = data.prompts.cells.some(Boolean);
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

// A group is the draws of one strategy: right where each draw is, wrong where one is.
function wrongDraws(sample, group) {
  return data.groups[group].cells.filter((row) => { const value = valueOf(sample, row); return value !== null && value < 1; }).length;
}

function isRight(sample, group) {
  return data.groups[group].cells.some((row) => valueOf(sample, row) !== null) && wrongDraws(sample, group) === 0;
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

function promptCell(row, panel) {
  const cell = element("td");
  if (data.prompts.cells[row]) {
    const show = element("button", "pick", "show");
    show.type = "button";
    show.setAttribute("aria-label", `Show the prompt of ${data.labels[row]}`);
    show.addEventListener("click", () => { panel.show(row); panel.scrollIntoView({ block: "nearest" }); });
    cell.append(show);
  }
  return cell;
}

// ---- prompts: as the harness fills templates

const FIELD = /\{\{|\}\}|\{([^{}]*)\}/g;

function promptOf(sample, row) {
  const around = data.prompts.cells[row];
  if (!around) return null;
  const [place, length, query, after] = around;
  const pattern = data.prompts.texts[query];
  const fields = Object.fromEntries(data.fields.map((name, i) => [name, data.texts[sample.t[i]]]));
  if (sample.c && pattern in sample.c) fields.choices = data.texts[sample.c[pattern]];
  const asked = pattern.replace(FIELD, (all, name) => (name === undefined ? all[0] : fields[name] ?? all));
  return data.prompts.befores[place].slice(0, length) + asked + data.prompts.texts[after];
}

function promptPanel(sample, first) {
  const panel = element("div", "asked-prompt"), head = element("p"), name = element("b"), text = element("pre");
  const copy = element("button", "", "Copy text"), note = element("p", "quiet");
  text.tabIndex = 0;
  text.lang = "ko";
  copy.type = "button";
  copy.addEventListener("click", () => copied(copy, text.textContent));
  head.append(name, copy);
  panel.append(head, note, text);
  panel.show = (row) => {
    const prompt = promptOf(sample, row), swapped = (sample.o || []).includes(row);
    name.textContent = `Prompt of ${data.labels[row]}`;
    text.setAttribute("aria-label", name.textContent);
    note.textContent = swapped ? "This sample is one of these demonstrations itself: in its place the model was shown the next of the draw." : "";
    note.hidden = !swapped;
    text.textContent = prompt;
  };
  panel.hidden = first === undefined;
  if (first !== undefined) panel.show(first);
  return panel;
}

function table(sample) {
  const made = element("table");
  const caption = element("caption");
  caption.append(element("span", "", metrics ? "Answers of the strategies" : "Predictions of the strategies; log p in nats"));
  made.append(caption);
  const head = element("tr");
  const titles = ["Strategy", "Result", ...columns(), ...(hasPrompts ? ["Prompt"] : [])];
  titles.forEach((title, i) => {
    const cell = element("th", i > 2 && title !== "Prompt" ? "num" : "", title);
    cell.scope = "col";
    head.append(cell);
  });
  made.append(element("thead"));
  made.tHead.append(head);
  const body = made.createTBody();
  const asked = new Set([wrong.value, right.value].filter(Boolean).flatMap((group) => data.groups[group].cells));
  const place = (row) => { const value = valueOf(sample, row); return value === null ? 1 : value < 1 ? 0 : 2; };
  const rows = [...data.labels.keys()].sort((a, b) => place(a) - place(b) || asked.has(b) - asked.has(a) || a - b);
  const panel = promptPanel(sample, rows.find((row) => data.prompts.cells[row]));
  for (const row of rows) {
    const line = body.insertRow();
    if (asked.has(row)) line.className = "asked";
    const name = element("th", "", data.labels[row]);
    name.scope = "row";
    const [text, mark] = verdict(sample, row);
    line.append(name, element("td", mark, text));
    cells(sample, row).forEach(([className, content]) => line.append(element("td", className, content)));
    if (hasPrompts) line.append(promptCell(row, panel));
  }
  const scroll = element("div", `scroll sheet${labels > 15 ? " tall" : ""}`);
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", `Strategies on sample ${sample.i}`);
  scroll.append(made);
  return [scroll, panel];
}

function opened(details, sample) {
  data.fields.forEach((name, i) => {
    const full = element("p", "full");
    full.append(element("b", "", name), document.createTextNode(data.texts[sample.t[i]]));
    details.append(full);
  });
  const gold = element("p", "full");
  gold.append(element("b", "", "gold"), document.createTextNode(golds(sample)));
  details.append(gold, ...table(sample));
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

const number = (value) => value.toLocaleString("en");

function filter() {
  const kind = form.elements.kind.value, wanted = folded(search.value.trim());
  const bit = kind ? data.bits[kind] : 0;
  shown = data.samples.filter((sample, i) => (sample.f & bit) === bit && (!wanted || haystacks[i].includes(wanted))
    && (!wrong.value || wrongDraws(sample, wrong.value) > 0) && (!right.value || isRight(sample, right.value))
    && (!part || !part.value || sample.s.includes(Number(part.value))));
  if (wrong.value) shown.sort((a, b) => wrongDraws(b, wrong.value) - wrongDraws(a, wrong.value));
  const many = shown.length === 1 ? "sample" : "samples";
  const all = data.samples.length < data.n_samples ? `; the run has ${number(data.n_samples)}` : "";
  const asked = [[wrong, "wrong under"], [right, "right under"]].filter(([select]) => select.value)
    .map(([select, words]) => `, ${words} ${data.groups[select.value].name}`).join("");
  byId("sample-count").textContent = `${number(shown.length)} ${many} of the ${number(data.samples.length)} in this file${asked}${all}`;
  page = 0;
  drawPage();
}

// What a click on a figure asks for: groups that are right and wrong, and a slice; -1 for none.
function showSamples([rightGroup, wrongGroup, slice]) {
  form.reset();
  right.value = rightGroup < 0 ? "" : rightGroup;
  wrong.value = wrongGroup < 0 ? "" : wrongGroup;
  if (part) part.value = slice < 0 ? "" : slice;
  filter();
  byId("samples").scrollIntoView();
  byId("sample-count").focus({ preventScroll: true });
}

for (const select of [wrong, right]) {
  data.groups.forEach((group, i) => { const option = element("option", "", group.name); option.value = i; select.append(option); });
}
document.querySelectorAll("[data-pick]").forEach((made) => {
  made.addEventListener("click", () => showSamples(made.dataset.pick.split(" ").map(Number)));
});
byId("sample-swap").addEventListener("click", () => {
  [wrong.value, right.value] = [right.value, wrong.value];
  filter();
});
form.addEventListener("reset", () => setTimeout(filter));
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", filter);
back.addEventListener("click", () => { page -= 1; drawPage(); });
next.addEventListener("click", () => { page += 1; drawPage(); });

filter();
themed();
