"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("scripted");

  // theme: the system's, until the button is pressed; remembered where the browser allows it
  const remember = (theme) => { try { localStorage.setItem("rope-gpt2-theme", theme); } catch { /* a page of a file may not */ } };
  const remembered = () => { try { return localStorage.getItem("rope-gpt2-theme"); } catch { return null; } };
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const toggle = document.getElementById("theme");
  const name = () => { toggle.textContent = dark() ? "Light" : "Dark"; toggle.setAttribute("aria-label", `Use the ${dark() ? "light" : "dark"} theme`); };
  if (["light", "dark"].includes(remembered())) root.dataset.theme = remembered();
  toggle.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; remember(root.dataset.theme); name(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();

  // sorting: numbers by their unrounded value, missing ones last
  const value = (row, column) => {
    const cell = row.cells[column];
    return "value" in cell.dataset ? (cell.dataset.value === "" ? null : Number(cell.dataset.value)) : cell.textContent.trim();
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  const sort = (table, header, column) => {
    const down = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows].map((row) => [value(row, column), row]);
    rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : down * compare(a, b)));
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };

  // filters: words in any cell, and a choice for each column of words
  const filter = (table, search, choices, count) => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      const kept = words.every((word) => text.includes(word)) && choices.every(([column, choice]) => !choice.value || row.cells[column].textContent.trim() === choice.value);
      row.hidden = !kept;
      shown += kept;
    }
    count.textContent = `${shown} of ${table.tBodies[0].rows.length} rows`;
  };
  const field = (label, control) => {
    const wrapper = document.createElement("label");
    wrapper.append(label, control);
    return wrapper;
  };
  const addFilters = (table) => {
    const bar = document.createElement("div");
    bar.className = "filters";
    const search = document.createElement("input");
    search.type = "search";
    search.placeholder = "any words";
    const count = document.createElement("output");
    count.setAttribute("aria-live", "polite");
    const choices = [];
    const update = () => filter(table, search, choices, count);
    bar.append(field("find", search));
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      if (!("choice" in header.dataset)) return;
      const distinct = [...new Set([...table.tBodies[0].rows].map((row) => row.cells[column].textContent.trim()))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
      if (distinct.length < 2 || distinct.length > 60) return;
      const choice = document.createElement("select");
      choice.append(new Option("all", ""), ...distinct.map((text) => new Option(text, text)));
      choice.addEventListener("change", update);
      choices.push([column, choice]);
      bar.append(field(header.dataset.heading, choice));
    });
    search.addEventListener("input", update);
    bar.append(count);
    update();
    table.closest(".scroll").before(bar);
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    if (table.tBodies[0].rows.length > 8) addFilters(table);
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => sort(table, header, column));
    });
  }

  // what is folded is printed too
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const details of folded) details.open = true;
  });
  addEventListener("afterprint", () => { for (const details of folded) details.open = false; });
})();
