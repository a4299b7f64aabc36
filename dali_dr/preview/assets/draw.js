// Pictures on canvases, with what is drawn over them.

const COLOURS = ["#ff5a5f", "#12b5cb", "#ffb400", "#7b61ff", "#2fbf71", "#ff7ac6", "#3d8bfd", "#c0d72f"];
const colourOf = (view) => COLOURS[view % COLOURS.length];

// An element with properties, attributes (names with a dash or "role") and children.
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

function sized(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.max(Math.round(width * scale), 1);
  canvas.height = Math.max(Math.round(height * scale), 1);
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.imageSmoothingQuality = "high";
  return context;
}

// Draws a picture whole into a box; where it lies there.
function drawWhole(context, picture, width, height) {
  const scale = Math.min(width / picture.width, height / picture.height);
  const w = picture.width * scale;
  const h = picture.height * scale;
  const left = (width - w) / 2;
  const top = (height - h) / 2;
  context.drawImage(picture.bitmap, picture.x, picture.y, picture.width, picture.height, left, top, w, h);
  return { left, top, width: w, height: h };
}

// The boxes of views over their image; `only`: of one alone, with what it erases.
function drawBoxes(context, place, size, told, about, only = null) {
  const [height, width] = size;
  const [sx, sy] = [place.width / width, place.height / height];
  told.views.forEach((view, n) => {
    const chosenOne = only === n;
    if (only !== null && !chosenOne) context.globalAlpha = 0.35;
    const [top, left, h, w] = view.box;
    const box = [place.left + left * sx, place.top + top * sy, w * sx, h * sy];
    context.lineWidth = chosenOne ? 5 : 3;
    context.strokeStyle = "rgb(0 0 0 / 55%)";
    context.strokeRect(...box);
    context.lineWidth = chosenOne ? 3 : 1.5;
    context.strokeStyle = colourOf(n);
    context.strokeRect(...box);
    if (chosenOne && view.erase) drawErased(context, box, view, about.view_size);
    if (chosenOne && view.flip) {
      context.font = "bold 16px system-ui, sans-serif";
      context.fillStyle = colourOf(n);
      context.strokeStyle = "black";
      context.lineWidth = 3;
      context.strokeText("⇄", box[0] + 6, box[1] + 18);
      context.fillText("⇄", box[0] + 6, box[1] + 18);
    }
    context.globalAlpha = 1;
  });
}

// What a view erases, where it lies in the image if no operation moved it.
function drawErased(context, [x, y, w, h], view, size) {
  const [top, left, height, width] = view.erase;
  const from = view.flip ? size - left - width : left;
  context.save();
  context.fillStyle = "rgb(0 0 0 / 45%)";
  context.setLineDash([5, 4]);
  context.lineWidth = 2;
  const box = [x + (from / size) * w, y + (top / size) * h, (width / size) * w, (height / size) * h];
  context.fillRect(...box);
  context.strokeStyle = "white";
  context.strokeRect(...box);
  context.restore();
}

// In the place of a view that cannot be shown.
function drawFault(context, x, y, width, height) {
  context.save();
  context.strokeStyle = "#b3261e";
  context.lineWidth = 2;
  context.strokeRect(x + 2, y + 2, width - 4, height - 4);
  context.beginPath();
  context.moveTo(x + 2, y + 2);
  context.lineTo(x + width - 2, y + height - 2);
  context.moveTo(x + width - 2, y + 2);
  context.lineTo(x + 2, y + height - 2);
  context.stroke();
  context.restore();
}

// A label map over its image: a colour for each class.
function drawMap(context, place, map, colours, opacity) {
  const rows = map.length;
  context.save();
  context.globalAlpha = opacity;
  map.forEach((line, y) =>
    line.forEach((number, x) => {
      context.fillStyle = `rgb(${colours[number].join(" ")})`;
      const [left, right] = [x, x + 1].map((n) => place.left + (n / line.length) * place.width);
      const [top, bottom] = [y, y + 1].map((n) => place.top + (n / rows) * place.height);
      context.fillRect(left, top, right - left + 0.3, bottom - top + 0.3);
    }),
  );
  context.restore();
}

const percent = (value) => (Number.isFinite(value) ? `${(100 * value).toFixed(value > 0.9995 ? 0 : 1)} %` : "–");
const nats = (value) => (Number.isFinite(value) ? value.toFixed(3) : "–");
const whole = (value) => value.toLocaleString("en");
const counted = (value, one, more = `${one}s`) => `${whole(value)} ${value === 1 ? one : more}`;
