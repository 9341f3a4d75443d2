// Sorts the page's table by the column whose head is pressed, and shows the rows in which every word of the filter occurs.
const body = document.querySelector("tbody"), rows = [...body.rows], shown = document.querySelector("output");
const heads = document.querySelectorAll("th");

document.querySelector("input").addEventListener("input", event => {
  const words = event.target.value.toLowerCase().split(/\s+/);
  for (const row of rows) row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
  shown.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} records`;
});

heads.forEach((head, column) => head.addEventListener("click", () => {
  const rising = head.getAttribute("aria-sort") !== "ascending", sign = rising ? 1 : -1;
  heads.forEach(other => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", rising ? "ascending" : "descending");
  rows.sort((one, other) => {
    const [a, b] = [one, other].map(row => row.cells[column].textContent);
    if (!a || !b) return (a ? 0 : 1) - (b ? 0 : 1);  // what is empty stays below
    return sign * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
  });
  body.append(...rows);
}));
