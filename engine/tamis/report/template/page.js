"use strict";
// The page says everything without this script; it adds sorting, filters and a closer look.

function value(cell) {
  const text = cell.dataset.v ?? cell.textContent.trim();
  return text === "" ? null : isNaN(text) ? text : Number(text);
}

function compare(a, b) {
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
}

function makeSortable(table) {
  const body = table.tBodies[0], original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    const isText = head.classList.contains("text");
    // The natural direction first, then the other, then the order of the page.
    const cycle = isText ? ["ascending", "descending", "none"] : ["descending", "ascending", "none"];
    button.addEventListener("click", () => {
      const next = cycle[(cycle.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
      for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      const rows = next === "none" ? original : [...original].sort((one, other) => {
        const a = value(one.cells[column]), b = value(other.cells[column]);
        if (a === null || b === null) return (a === null) - (b === null);
        return sign * compare(a, b);
      });
      body.append(...rows);
    });
  });
}

function makeFilter(form) {
  const table = document.getElementById(form.dataset.for);
  const rows = [...table.tBodies[0].rows];
  const shown = form.querySelector("output"), search = form.querySelector("input");
  const selects = [];
  for (const name of form.dataset.by.split(" ")) {
    const values = [...new Set(rows.map(row => row.dataset[name]))];
    if (values.length < 2) continue;
    const label = document.createElement("label"), select = document.createElement("select");
    select.name = name;
    select.append(new Option("all", ""), ...values.map(text => new Option(text, text)));
    label.append(name, select);
    form.insertBefore(label, shown);
    selects.push(select);
  }
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every(word => text.includes(word)) ||
        selects.some(select => select.value && row.dataset[select.name] !== select.value);
    }
    shown.textContent = `${rows.filter(row => !row.hidden).length} of ${rows.length} rows`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", event => event.preventDefault());
  form.hidden = false;
  apply();
}

function makeCloserLook(dialog) {
  const table = document.getElementById("images-table"), place = dialog.querySelector("div");
  for (const link of document.querySelectorAll("a.thumb")) {
    link.addEventListener("click", event => {
      const row = document.getElementById(link.hash.slice(1));
      const list = document.createElement("dl");
      [...table.tHead.rows[0].cells].forEach((head, column) => {
        if (!head.textContent.trim()) return;
        const term = document.createElement("dt"), text = document.createElement("dd");
        term.textContent = head.textContent;
        text.textContent = row.cells[column].textContent.replace(/\s+/g, " ").trim();
        list.append(term, text);
      });
      place.replaceChildren(link.querySelector("svg").cloneNode(true), list);
      dialog.showModal();
      event.preventDefault();
    });
  }
  // A touch or click beside it closes it.
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll("form.filters").forEach(makeFilter);
document.querySelectorAll("dialog").forEach(makeCloserLook);
for (const button of document.querySelectorAll("button[data-copy]")) {
  const source = document.getElementById(button.dataset.copy);
  button.hidden = false;
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(source);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected: now copy it";
    }
  });
}
const closed = [];
addEventListener("beforeprint", () => {
  closed.push(...document.querySelectorAll("details:not([open])"));
  for (const one of closed) one.open = true;
});
addEventListener("afterprint", () => { for (const one of closed.splice(0)) one.open = false; });
