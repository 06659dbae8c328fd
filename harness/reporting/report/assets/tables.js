// ---- tables: a click on a column's title sorts by it

const NOTHING = "–";

function sortKey(cell) {
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  const text = cell.textContent.trim(), figure = /^[+-]?[0-9.]+/.exec(text.replaceAll("−", "-").replaceAll(",", ""));
  return figure ? Number(figure[0]) : text;
}

function sortBy(table, column, upwards) {
  const keyed = [...table.tBodies[0].rows].map((row) => [row, sortKey(row.cells[column])]);
  const figures = keyed.filter(([, key]) => key !== NOTHING).every(([, key]) => typeof key === "number");
  const last = (key) => key === NOTHING || Number.isNaN(key);
  keyed.sort(([, a], [, b]) => {
    if (last(a) || last(b)) return last(a) - last(b);
    const order = figures ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
    return upwards ? order : -order;
  });
  table.tBodies[0].append(...keyed.map(([row]) => row));
}

function sortable(table) {
  const titles = [...table.tHead.rows[0].cells];
  titles.forEach((title, column) => {
    const button = element("button", "sort", title.textContent);
    button.type = "button";
    button.addEventListener("click", () => {
      const before = title.getAttribute("aria-sort");
      // Figures begin with the largest, names with the first.
      const upwards = before ? before === "descending" : !title.classList.contains("num");
      titles.forEach((other) => other.removeAttribute("aria-sort"));
      sortBy(table, column, upwards);
      title.setAttribute("aria-sort", upwards ? "ascending" : "descending");
    });
    title.replaceChildren(button);
  });
}

document.querySelectorAll("table.sortable").forEach(sortable);
