"use strict";
// A click on a column's heading sorts its table; without scripts the page is the same, in the order in which it came.
const units = { B: 1, kB: 1e3, MB: 1e6, GB: 1e9, "µs": 1e-3, ms: 1, s: 1e3, k: 1e3, M: 1e6, G: 1e9 };
const valueOf = (row, column) => {
  const text = row.cells[column].firstChild?.textContent.trim().replaceAll("−", "-").replaceAll(",", "") ?? "";
  const [number] = text.match(/^[+-]?[0-9.]+(e[+-]?[0-9]+)?/) ?? [];
  if (number === undefined) return text;
  return Number(number) * (units[text.slice(number.length).trim().split(/[ []/)[0]] ?? 1);
};
const order = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
for (const table of document.querySelectorAll("table.sorts")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.tabIndex = 0;
    const sort = () => {
      const down = heading.ariaSort === "ascending";
      headings.forEach(other => other.removeAttribute("aria-sort"));
      heading.ariaSort = down ? "descending" : "ascending";
      const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? -1 : 1) * order(valueOf(a, column), valueOf(b, column)));
      table.tBodies[0].append(...rows);
    };
    heading.onclick = sort;
    heading.onkeydown = event => { if (event.key === "Enter") sort(); };
  });
}
