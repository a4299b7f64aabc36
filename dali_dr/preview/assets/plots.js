// Statistics as plots: bars over bins, as SVG, and rows with a bar each.

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const short = (value) => {
  const size = Math.abs(value);
  if (size >= 10000 || (size && size < 0.001)) return value.toExponential(1);
  return String(Number(value.toPrecision(3)));
};

function binsPlot({ title, unit, edges, counts, small }) {
  const [width, height, foot] = small ? [280, 120, 22] : [420, 200, 34];
  const most = Math.max(...counts, 1);
  const total = counts.reduce((sum, count) => sum + count, 0);
  const step = (width - 16) / counts.length;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}, as a histogram` });
  counts.forEach((count, n) => {
    const tall = ((height - foot - 12) * count) / most;
    const bar = svg("rect", {
      x: 8 + n * step + 0.5,
      y: height - foot - tall,
      width: Math.max(step - 1, 1),
      height: Math.max(tall, count ? 1 : 0),
      class: "bar",
    });
    const share = total ? ` (${percent(count / total)})` : "";
    bar.append(svg("title", {}, `${short(edges[n])} to ${short(edges[n + 1])} ${unit}: ${whole(count)}${share}`));
    picture.append(bar);
  });
  picture.append(svg("line", { x1: 8, x2: width - 8, y1: height - foot, y2: height - foot, class: "axis" }));
  const marks = small ? [0, counts.length] : [0, counts.length / 4, counts.length / 2, (3 * counts.length) / 4, counts.length];
  marks.forEach((mark, n) => {
    const anchor = n === 0 ? "start" : n === marks.length - 1 ? "end" : "middle";
    const text = svg("text", { x: 8 + mark * step, y: height - foot + 14, "text-anchor": anchor }, short(edges[mark]));
    picture.append(text);
  });
  if (unit && !small) {
    picture.append(svg("text", { x: width / 2, y: height - 4, "text-anchor": "middle", class: "unit" }, unit));
  }
  return make("figure", { className: small ? "plot small" : "plot" }, make("figcaption", {}, title), picture);
}

function rowsPlot({ title, unit, rows, most }, choose) {
  const largest = most ?? Math.max(...rows.map(([, value]) => value), 1);
  const lines = rows.map(([name, value, number]) => {
    const bar = make("span", { className: "row-bar" });
    bar.style.width = `${Math.max((100 * value) / largest, 0.5)}%`;
    const told = unit === "share" ? percent(value) : whole(value);
    const parts = [make("span", { className: "row-name" }, name), make("span", { className: "row-track" }, bar)];
    parts.push(make("span", { className: "row-value" }, told));
    if (number === null) return make("li", {}, ...parts);
    const button = make("button", { type: "button", title: `Show the images of ${name}` }, ...parts);
    button.addEventListener("click", () => choose(number));
    return make("li", {}, button);
  });
  return make("figure", { className: "plot rows" }, make("figcaption", {}, title), make("ul", {}, ...lines));
}

function showPlots(section, plots, note, choose) {
  section.replaceChildren();
  if (note) section.append(make("p", { className: "plots-note" }, note));
  const large = make("div", { className: "plots" });
  const small = make("div", { className: "plots" });
  for (const plot of plots) {
    const figure = plot.kind === "bins" ? binsPlot(plot) : rowsPlot(plot, choose);
    (plot.small ? small : large).append(figure);
  }
  section.append(large);
  if (small.childElementCount) section.append(make("h2", {}, "Magnitudes of the operations"), small);
}
