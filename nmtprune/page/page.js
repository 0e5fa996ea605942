"use strict";
(function () {
  function valueOf(row, column) {
    var cell = row.cells[column];
    return cell.hasAttribute("data-value") ? Number(cell.getAttribute("data-value")) : cell.textContent;
  }
  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") { return a - b; }
    if (typeof a === "number") { return -1; }
    if (typeof b === "number") { return 1; }
    return a.localeCompare(b, "en", { numeric: true });
  }
  function sortBy(table, head, column) {
    var falling = head.getAttribute("aria-sort") === "ascending";
    var body = table.tBodies[0];
    var rows = Array.from(body.rows).map(function (row) { return { row: row, value: valueOf(row, column) }; });
    var empty = rows.filter(function (each) { return each.value === ""; });
    rows = rows.filter(function (each) { return each.value !== ""; });
    rows.sort(function (a, b) { return falling ? compare(b.value, a.value) : compare(a.value, b.value); });
    rows.concat(empty).forEach(function (each) { body.appendChild(each.row); });
    Array.from(head.parentNode.cells).forEach(function (other) { other.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  }
  document.querySelectorAll("table").forEach(function (table) {
    if (table.tBodies[0].rows.length < 2) { return; }
    Array.from(table.tHead.rows[0].cells).forEach(function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      button.addEventListener("click", function () { sortBy(table, head, column); });
      head.replaceChildren(button);
    });
  });
  document.querySelectorAll(".choice").forEach(function (choice, place) {
    var options = Array.from(choice.querySelectorAll(".option"));
    if (options.length < 2) { return; }
    var chosen = Number(options[0].dataset.number);
    options.sort(function (a, b) { return a.dataset.number - b.dataset.number; });
    var picker = document.createElement("p"), label = document.createElement("label");
    var range = document.createElement("input"), name = document.createElement("output");
    range.type = "range"; range.min = 0; range.max = options.length - 1; range.value = chosen;
    range.id = "choice-" + place; label.htmlFor = range.id; name.htmlFor = range.id;
    label.textContent = choice.dataset.caption;
    picker.className = "picker";
    picker.append(label, range, name);
    function show() {
      options.forEach(function (option, number) { option.hidden = number !== Number(range.value); });
      name.textContent = options[range.value].dataset.name;
      range.setAttribute("aria-valuetext", name.textContent);
    }
    range.addEventListener("input", show);
    choice.replaceChildren(picker);
    options.forEach(function (option) { option.querySelector("h4").remove(); choice.appendChild(option); });
    show();
  });
}());
