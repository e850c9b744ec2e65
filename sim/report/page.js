"use strict";
// The comparison: sorts the groups of its table, hides the rows that were not chosen, and draws the rest over capacity.
const section = document.querySelector("#comparison");
if (section) {
  const table = section.querySelector("table.sortable");
  const headings = Array.from(table.tHead.rows[0].cells);
  const rows = Array.from(table.querySelectorAll("tbody tr:not(.group)"));
  const value = (row, column) => row.cells[column].dataset.sort;
  const compare = (one, other) => {
    if (one === "" || other === "") return one === other ? 0 : one === "" ? 1 : -1;
    const numbers = [Number(one), Number(other)];
    return numbers.some(Number.isNaN) ? one.localeCompare(other) : numbers[0] - numbers[1];
  };
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const falling = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
      for (const body of table.tBodies) {
        const own = Array.from(body.rows).slice(1);
        own.sort((one, other) => {
          const pair = [value(one, column), value(other, column)];
          const order = compare(pair[0], pair[1]);
          return falling && !pair.includes("") ? -order : order;
        });
        body.append(...own);
      }
    });
  });

  const field = section.querySelector(".filter input");
  const chosen = (name) => section.querySelector(`select.${name}`)?.value ?? "";
  const boxes = Array.from(section.querySelectorAll(".policies input"));
  const show = () => {
    const words = field.value.toLowerCase().split(/\s+/);
    const policies = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden =
        !policies.has(row.dataset.policy) ||
        (chosen("capacity") !== "" && row.dataset.capacity !== chosen("capacity")) ||
        (chosen("place") !== "" && row.dataset.place !== chosen("place")) ||
        !words.every((word) => text.includes(word));
    }
    for (const body of table.tBodies) {
      body.hidden = Array.from(body.rows).slice(1).every((row) => row.hidden);
    }
    draw();
  };
  section.querySelectorAll("select, .policies input").forEach((one) => one.addEventListener("change", show));
  field.addEventListener("input", show);
  const fold = section.querySelector(".fold");
  fold.addEventListener("click", () => {
    const open = table.classList.toggle("open");
    fold.setAttribute("aria-pressed", String(open));
    fold.textContent = open ? "Fewer columns" : "More columns";
  });

  const picture = section.querySelector(".chart svg");
  const tip = section.querySelector(".chart output");
  const key = section.querySelector(".chart .key");
  const WAYS = [
    { words: "solid, filled", dashes: "none", filled: true },
    { words: "dashed, hollow", dashes: "7 3", filled: false },
    { words: "dotted, filled", dashes: "2 3", filled: true },
    { words: "dash-dotted, hollow", dashes: "7 3 2 3", filled: false },
    { words: "short dashes, filled", dashes: "4 2", filled: true },
  ];
  const make = (name, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, one] of Object.entries(attributes)) element.setAttribute(key, one);
    if (text !== undefined) element.textContent = text;
    picture.append(element);
    return element;
  };
  const step = (span) => {
    const rough = span / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    return power * [1, 2, 5, 10].find((one) => one * power >= rough);
  };
  const draw = () => {
    const column = Number(chosen("metric"));
    const points = rows
      .filter((row) => !row.hidden && row.cells[column].dataset.sort !== "")
      .map((row) => {
        const cell = row.cells[column];
        const at = { x: Number(row.dataset.capacity), y: Number(cell.dataset.sort), row, cell };
        at.low = cell.dataset.low === undefined ? at.y : Number(cell.dataset.low);
        at.high = cell.dataset.high === undefined ? at.y : Number(cell.dataset.high);
        return at;
      });
    const width = picture.clientWidth || 600;
    const height = 280;
    const edge = { left: 52, right: 14, top: 12, bottom: 40 };
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    picture.replaceChildren();
    tip.hidden = true;
    if (!points.length) {
      make("text", { x: 20, y: 40, class: "soft" }, "Nothing is chosen.");
      return;
    }
    const top = Math.max(...points.map((point) => point.high)) * 1.05 || 1;
    const idle = (point) => point.x === 0 || point.x === 100; // nothing or everything kept: no capacity
    const inner = points.filter((point) => !idle(point)).map((point) => point.x);
    const right = Math.max(...inner, 0) * 1.05 || 100;
    const across = (x) => edge.left + (x / right) * (width - edge.left - edge.right);
    const upward = (y) => height - edge.bottom - (y / top) * (height - edge.top - edge.bottom);
    for (let y = 0; y <= top; y += step(top)) {
      make("line", { x1: edge.left, x2: width - edge.right, y1: upward(y), y2: upward(y), class: "rule" });
      make("text", { x: edge.left - 6, y: upward(y) + 4, "text-anchor": "end" }, String(Number(y.toPrecision(6))));
    }
    let last = -Infinity;
    for (const x of [...new Set(inner)].sort((one, other) => one - other)) {
      if (across(x) - last < 44) continue; // a number would stand on the one before
      last = across(x);
      make("text", { x: across(x), y: height - edge.bottom + 16, "text-anchor": "middle" }, `${x}`);
    }
    const middle = (edge.left + width - edge.right) / 2;
    make("text", { x: middle, y: height - 6, "text-anchor": "middle" }, "Cache capacity (% of all experts)");
    const places = [...new Set(points.map((point) => point.row.dataset.place))].sort();
    key.textContent = places.map((place, index) => `${WAYS[Math.min(index, WAYS.length - 1)].words}: ${place}`).join("; ");
    key.hidden = places.length < 2;
    const lines = new Map();
    for (const point of points) {
      const name = `${point.row.dataset.policy}\n${point.row.dataset.place}`;
      lines.set(name, [...(lines.get(name) ?? []), point]);
    }
    for (const line of lines.values()) {
      line.sort((one, other) => one.x - other.x);
      const { policy, place } = line[0].row.dataset;
      const way = WAYS[Math.min(places.indexOf(place), WAYS.length - 1)];
      const color = boxes.find((box) => box.value === policy).dataset.color;
      const path = line.filter((point) => !idle(point)).map((point) => `${across(point.x)},${upward(point.y)}`).join(" ");
      make("polyline", { points: path, fill: "none", stroke: color, "stroke-width": 2, "stroke-dasharray": way.dashes });
      for (const point of line) {
        const at = { x: idle(point) ? width - edge.right - 8 : across(point.x), y: upward(point.y) };
        if (idle(point)) {
          const ends = { x1: edge.left, x2: at.x, y1: at.y, y2: at.y };
          make("line", { ...ends, stroke: color, "stroke-dasharray": "6 4" });
        }
        make("line", { x1: at.x, x2: at.x, y1: upward(point.low), y2: upward(point.high), stroke: color });
        const dot = make("circle", { cx: at.x, cy: at.y, r: 5, fill: way.filled ? color : "#fff", stroke: color, "stroke-width": 2, tabindex: 0 });
        const interval = point.cell.querySelector("small")?.textContent ?? "";
        const number = point.cell.firstChild.textContent;
        const say = () => {
          tip.textContent = [
            policy, place, idle(point) ? "" : `${point.x} % of the experts`,
            `${headings[column].textContent.trim()} ${number} ${interval}`.trim(),
          ].filter((part) => part !== "").join(" · ");
          tip.hidden = false;
        };
        dot.addEventListener("pointerenter", say);
        dot.addEventListener("focus", say);
      }
    }
  };
  window.addEventListener("resize", draw);
  show();
}
