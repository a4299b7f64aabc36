// Which images are shown, and in which order.

const ORDERS = {
  number: ["position in the set", (t, i) => t.number[i]],
  key: ["key", null],
  confidence: ["confidence", (t, i) => t.confidence[i]],
  entropy: ["entropy", (t, i) => t.entropy[i]],
  divergence: ["KL between views", (t, i) => t.divergence[i]],
  record: ["bytes of the record", (t, i) => t.record_bytes[i]],
  image: ["bytes of the image", (t, i) => t.image_bytes[i]],
  pixels: ["pixels", (t, i) => t.height[i] * t.width[i]],
};

function ordersFor(about) {
  if (about.kind === "views") {
    const known = about.topk ? ["confidence", "entropy", "divergence"] : [];
    return ["number", "key", ...known, "record", "image", "pixels"];
  }
  if (about.kind === "maps") return ["number", "key", "confidence", "entropy", "record", "image", "pixels"];
  return ["number", "key", "image", "pixels"];
}

// Whether the filters ask for what only records say.
function needsRecords(wanted) {
  const order = ["confidence", "entropy", "divergence"].includes(wanted.order);
  return order || wanted.teacher !== null || wanted.least !== null || wanted.most !== null || wanted.disagree;
}

// Which fields ask for what no image can have, and why, in words: {field: reason}.
function impossible(wanted, name) {
  const faults = {};
  if (wanted.label === -1) faults.label = "No class of the images is called so.";
  if (wanted.teacher === -1) faults.teacher = "No class of the teacher is called so.";
  for (const limit of ["least", "most"]) {
    const value = wanted[limit];
    if (value !== null && !(value >= 0 && value <= 1)) faults[limit] = `${name}: want 0 to 100 %.`;
  }
  const { least, most } = wanted;
  if (least !== null && most !== null && least > most) {
    const [low, high] = [least, most].map((value) => `${Number((100 * value).toPrecision(6))} %`);
    faults.least ??= `${name}: no image has at least ${low} and at most ${high}; exchange the two.`;
    faults.most ??= faults.least;
  }
  return faults;
}

// Places of the images, as an Int32Array.
function chosen(source, wanted, mask) {
  const { table } = source;
  const places = new Int32Array(table.length);
  const records = needsRecords(wanted);
  let count = 0;
  for (let i = 0; i < table.length; i++) {
    if (table.known[i] < (records ? 2 : 1)) continue;
    if (mask && !mask[i]) continue;
    if (wanted.label !== null && table.label[i] !== wanted.label) continue;
    if (wanted.teacher !== null && table.teacher[i] !== wanted.teacher) continue;
    if (wanted.least !== null && !(table.confidence[i] >= wanted.least)) continue;
    if (wanted.most !== null && !(table.confidence[i] <= wanted.most)) continue;
    if (wanted.disagree && (table.teacher[i] < 0 || table.teacher[i] === table.label[i])) continue;
    places[count++] = i;
  }
  return sorted(source, places.subarray(0, count), wanted);
}

function sorted(source, places, { order, turned }) {
  const { table } = source;
  if (order === "key") {
    const { keys } = source.about;
    const ranked = Array.from(places).sort((a, b) => (keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : a - b));
    places = Int32Array.from(ranked);
  } else if (order !== "number") {
    const value = ORDERS[order][1];
    const values = new Float64Array(table.length);
    for (const i of places) {
      const found = value(table, i);
      values[i] = Number.isNaN(found) ? (turned ? -Infinity : Infinity) : found; // without one: last
    }
    places = places.slice().sort((a, b) => values[a] - values[b] || a - b);
  }
  return turned ? places.slice().reverse() : places;
}

// A class by its name, by "name (number)", or by its number; null: any; -1: none is called so.
class ClassList {
  constructor(names) {
    this.names = names;
    this.numbers = new Map();
    const seen = new Map();
    for (const name of names) seen.set(name, (seen.get(name) ?? 0) + 1);
    this.shown = names.map((name, n) => (seen.get(name) > 1 ? `${name} (${n})` : name));
    this.shown.forEach((name, n) => this.numbers.set(name.toLowerCase(), n));
  }

  find(text) {
    const wanted = text.trim().toLowerCase();
    if (!wanted) return null;
    if (this.numbers.has(wanted)) return this.numbers.get(wanted);
    if (/^\d+$/.test(wanted) && Number(wanted) < this.names.length) return Number(wanted);
    const partial = this.shown.findIndex((name) => name.toLowerCase().includes(wanted));
    return partial;
  }
}
