// Draws each figure's curves again, beside the printed ones: hover for a value, switch series and the error axis.
"use strict";

const HEIGHT = 330, LEFT = 52, RIGHT = 14, TOP = 12, BOTTOM = 40;

function add(parent, tag, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return parent.appendChild(made);
}

function button(parent, text, pressed, press) {
  const made = parent.appendChild(document.createElement("button"));
  made.type = "button";
  made.textContent = text;
  made.setAttribute("aria-pressed", pressed);
  made.addEventListener("click", () => {
    pressed = !pressed;
    made.setAttribute("aria-pressed", pressed);
    press(pressed);
  });
  return made;
}

// About five round numbers from 0 to the highest value.
function ticks(highest) {
  const power = 10 ** Math.floor(Math.log10(highest / 5));
  const step = power * [1, 2, 5, 10].find(factor => factor * power >= highest / 5);
  return Array.from({ length: Math.floor(highest / step * 1.000001) + 1 }, (_, place) => +(place * step).toPrecision(12));
}

function decades(lowest, highest) {
  const first = Math.floor(Math.log10(lowest));
  return Array.from({ length: Math.ceil(Math.log10(highest)) - first + 1 }, (_, place) => +(10 ** (first + place)).toPrecision(1));
}

// Where a series has no place on a logarithmic axis, at an error of zero, its line has a gap.
function runs(points, log) {
  const found = [[]];
  for (const point of points) {
    if (log && point[1] <= 0) found.push([]);
    else found.at(-1).push(point);
  }
  return found;
}

function chart(figure, series) {
  const box = figure.appendChild(document.createElement("div"));
  box.className = "chart";
  figure.classList.add("interactive");
  const width = Math.max(320, box.clientWidth);
  const buttons = box.appendChild(document.createElement("div"));
  const svg = add(box, "svg", { viewBox: `0 0 ${width} ${HEIGHT}` });
  const said = box.appendChild(document.createElement("output")), off = new Set();
  let log = false, drawn = [];

  function draw() {
    const shown = series.filter(one => !off.has(one.network) && !off.has(one.what));
    const points = shown.flatMap(one => one.points).filter(point => !log || point[1] > 0);
    svg.replaceChildren();
    said.value = points.length ? "Point at a curve for its values." : "No series is switched on.";
    drawn = [];
    if (!points.length) return;
    const largest = place => points.reduce((most, point) => Math.max(most, point[place]), 1e-9);
    const lowest = points.reduce((least, point) => Math.min(least, point[1]), Infinity);
    const marks = log ? decades(lowest, largest(1)) : ticks(largest(1)), steps = largest(0);
    const bottom = log ? Math.log10(marks[0]) : 0, top = log ? Math.log10(marks.at(-1)) : largest(1) * 1.03;
    const x = step => LEFT + step / steps * (width - LEFT - RIGHT);
    const y = error => HEIGHT - BOTTOM - ((log ? Math.log10(error) : error) - bottom) / (top - bottom || 1) * (HEIGHT - BOTTOM - TOP);
    for (const mark of marks) {
      add(svg, "line", { x1: LEFT, x2: width - RIGHT, y1: y(mark), y2: y(mark), class: "grid" });
      add(svg, "text", { x: LEFT - 6, y: y(mark) + 4, "text-anchor": "end" }, mark);
    }
    for (const mark of ticks(steps)) {
      add(svg, "text", { x: x(mark), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, mark.toLocaleString("en"));
    }
    add(svg, "text", { x: (LEFT + width) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, "step");
    add(svg, "text", { transform: `translate(12 ${HEIGHT / 2}) rotate(-90)`, "text-anchor": "middle" }, "error (%)");
    for (const one of shown) {
      const lines = runs(one.points, log).map(part => add(svg, "polyline", {
        points: part.map(([step, error]) => `${x(step)},${y(error)}`).join(" "),
        stroke: one.color, "stroke-dasharray": one.dash ? "5 3" : "none",
      }));
      for (const point of one.points) {
        if (!log || point[1] > 0) drawn.push({ one, lines, point, x: x(point[0]), y: y(point[1]) });
      }
    }
    add(svg, "circle", { r: 4, visibility: "hidden" });
  }

  function point(event) {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const away = place => Math.hypot(place.x - at.x, place.y - at.y);
    const nearest = drawn.reduce((best, place) => !best || away(place) < away(best) ? place : best, null);
    if (!nearest) return;
    for (const line of svg.querySelectorAll(".near")) line.classList.remove("near");
    for (const line of nearest.lines) line.classList.add("near");
    const { one, point: [step, error] } = nearest, dot = svg.querySelector("circle");
    for (const [name, value] of [["cx", nearest.x], ["cy", nearest.y], ["fill", one.color]]) dot.setAttribute(name, value);
    dot.setAttribute("visibility", "visible");
    said.value = `${one.network}: step ${step.toLocaleString("en")}, ${one.what} error ${error} %`;
  }

  const redraw = name => pressed => {
    off[pressed ? "delete" : "add"](name);
    draw();
  };
  for (const network of new Set(series.map(one => one.network))) {
    const color = series.find(one => one.network === network).color;
    button(buttons, network, true, redraw(network)).style.setProperty("--shade", color);
  }
  for (const what of new Set(series.map(one => one.what))) button(buttons, what, true, redraw(what));
  button(buttons, "log axis", false, pressed => {
    log = pressed;
    draw();
  }).className = "axis";
  svg.addEventListener("pointermove", point);
  draw();
}

for (const [name, { series }] of Object.entries(JSON.parse(document.getElementById("charts").textContent))) {
  chart(document.getElementById(`figure-${name}`), series);
}
