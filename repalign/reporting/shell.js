// Missing values stay last in both directions; Array.sort is stable, so sorting twice nests.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const order = (a, b) => {
      const [x, y] = [a, b].map((row) => row.cells[column]);
      const gone = x.classList.contains("missing") - y.classList.contains("missing");
      if (gone) return gone;
      const [u, v] = [x, y].map((cell) => parseFloat(cell.dataset.value));
      if (!isNaN(u) && !isNaN(v)) return sign * (u - v);
      return sign * x.textContent.localeCompare(y.textContent, "en", { numeric: true });
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
  }));
}

// The choice of colours is remembered where the browser lets a file remember anything.
const theme = document.querySelector(".theme");
const choose = (scheme) => { document.documentElement.style.colorScheme = scheme; };
const kept = (act) => { try { return act(); } catch { return null; } };
theme.hidden = false;
const picker = theme.querySelector("select");
const known = kept(() => localStorage.getItem("repalign-colours"));
if ([...picker.options].some((option) => option.value === known)) {
  picker.value = known;
  choose(known);
}
picker.addEventListener("change", () => {
  choose(picker.value);
  kept(() => localStorage.setItem("repalign-colours", picker.value));
});
