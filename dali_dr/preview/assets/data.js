// Where the page gets what it shows: from the data blocks of this file, or from the server that sent it.

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

async function inflated(base64) {
  const stream = new Blob([bytesOf(base64)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

const jsonOf = async (base64) => JSON.parse(new TextDecoder().decode(await inflated(base64)));

// The text of a data block, once the parser is past it: the page is used while most of it still comes.
function block(name) {
  return new Promise((resolve, reject) => {
    const look = () => {
      const element = document.getElementById(name);
      const loading = document.readyState === "loading";
      if (element && (element.nextElementSibling || !loading)) resolve(element.textContent);
      else if (loading) setTimeout(look, 50);
      else reject(new Error(`${name} is missing: the file is cut off`));
    };
    look();
  });
}

// Facts of images as columns, from rows of bytes.
class Table {
  constructor(about) {
    const kinds = { "<u4": Uint32Array, "<i4": Int32Array, "<f4": Float32Array };
    this.length = about.images;
    this.rowBytes = about.fact_bytes;
    this.fields = about.facts.map(([name, type, offset]) => ({ name, type, offset }));
    for (const { name, type } of this.fields) this[name] = new kinds[type](this.length);
    this.known = new Uint8Array(this.length); // 1: index, 2: record
  }

  fill(buffer, first, how) {
    const view = new DataView(buffer);
    const rows = buffer.byteLength / this.rowBytes;
    const read = { "<u4": "getUint32", "<i4": "getInt32", "<f4": "getFloat32" };
    for (const { name, type, offset } of this.fields) {
      const column = this[name];
      const get = read[type];
      for (let row = 0; row < rows; row++) {
        const at = first + row;
        if (this.known[at] < how) column[at] = view[get](row * this.rowBytes + offset, true);
      }
    }
    for (let row = 0; row < rows; row++) this.known[first + row] = Math.max(this.known[first + row], how);
    return rows;
  }
}

// Keeps the results of the last calls.
class Kept {
  constructor(most, make) {
    this.most = most;
    this.make = make;
    this.held = new Map();
  }

  get(name) {
    let found = this.held.get(name);
    if (found) this.held.delete(name);
    else {
      found = this.make(name);
      found.catch(() => this.held.delete(name));
    }
    this.held.set(name, found);
    if (this.held.size > this.most) this.held.delete(this.held.keys().next().value);
    return found;
  }
}

function cell(bitmap, place, edge, [width, height]) {
  const across = Math.max(Math.floor(bitmap.width / edge), 1);
  return { bitmap, x: (place % across) * edge, y: Math.floor(place / across) * edge, width, height };
}

// The data blocks of this file.
class Embedded {
  constructor(about) {
    this.about = about;
    this.served = false;
    this.table = new Table(about);
    this.chunks = new Kept(64, (number) => this.chunk(number));
  }

  async open() {
    this.table.fill(await inflated(await block("facts")), 0, 2);
    this.lower = null;
  }

  async chunk(number) {
    const [told, images, views] = (await block(`chunk-${number}`)).split(" ");
    const bitmap = (text) => createImageBitmap(new Blob([bytesOf(text)], { type: "image/webp" }));
    return Promise.all([jsonOf(told), bitmap(images), views ? bitmap(views) : null]);
  }

  // {views, map, image: where its picture is, pictures: a promise of where those of its views are}
  async sample(place) {
    const { chunk, sizes } = this.about;
    const [told, images, views] = await this.chunks.get(Math.floor(place / chunk));
    const one = told[place % chunk];
    const image = cell(images, place % chunk, sizes.image, one.thumb);
    const edge = Math.min(sizes.view, this.about.view_size || sizes.view);
    const pictures = one.views.map((_, n) => cell(views, one.at + n, sizes.view, [edge, edge]));
    return { ...one, image, pictures: Promise.resolve(pictures) };
  }

  async large(place) {
    return (await this.sample(place)).image;
  }

  async key(place) {
    return this.about.keys[place];
  }

  keyNow(place) {
    return this.about.keys[place];
  }

  placeOf(number) {
    const { number: numbers } = this.table;
    let low = 0;
    let high = numbers.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (numbers[middle] < number) low = middle + 1;
      else high = middle;
    }
    return numbers[low] === number ? low : -1;
  }

  // A byte for each image: whether its key holds the text.
  async find(text) {
    this.lower ??= this.about.keys.map((key) => key.toLowerCase());
    return Uint8Array.from(this.lower, (key) => (key.includes(text) ? 1 : 0));
  }

  async plots() {
    return { plots: this.about.plots };
  }
}

// The server that sent this page.
class Served {
  constructor(about) {
    this.about = about;
    this.served = true;
    this.table = new Table(about);
    this.keys = new Map();
    this.samples = new Kept(400, (place) => this.fetched(place));
  }

  async ask(path) {
    const answer = await fetch(path);
    if (!answer.ok) throw new Error(await answer.text());
    return answer;
  }

  async open(changed) {
    const first = await (await this.ask("index/0")).arrayBuffer();
    const rows = this.table.fill(first, 0, 1);
    this.rest(rows, changed);
  }

  async rest(rows, changed) {
    for (let at = rows; at < this.table.length; at += rows) {
      this.table.fill(await (await this.ask(`index/${at}`)).arrayBuffer(), at, 1);
    }
    if (rows < this.table.length) changed();
  }

  async fetched(place) {
    const one = await (await this.ask(`sample/${place}`)).json();
    this.keys.set(place, one.key);
    this.table.fill(bytesOf(one.facts).buffer, place, 2);
    if (one.error) return { ...one, pictures: Promise.resolve([]) };
    const bitmap = async (path) => createImageBitmap(await (await this.ask(path)).blob());
    const images = await bitmap(`thumb/${place}`);
    one.image = { bitmap: images, x: 0, y: 0, width: images.width, height: images.height };
    const { sizes } = this.about;
    const edge = Math.min(sizes.view, this.about.view_size || sizes.view);
    const views = one.views.length ? bitmap(`views/${place}`) : null;
    one.pictures = views
      ? views.then((sheet) => one.views.map((_, n) => cell(sheet, n, sizes.view, [edge, edge])))
      : Promise.resolve([]);
    return one;
  }

  sample(place) {
    return this.samples.get(place);
  }

  async large(place) {
    const bitmap = await createImageBitmap(await (await this.ask(`image/${place}`)).blob(), { imageOrientation: "none" });
    return { bitmap, x: 0, y: 0, width: bitmap.width, height: bitmap.height };
  }

  async largeView(place, row) {
    const bitmap = await createImageBitmap(await (await this.ask(`view/${place}/${row}`)).blob());
    return { bitmap, x: 0, y: 0, width: bitmap.width, height: bitmap.height };
  }

  async key(place) {
    if (!this.keys.has(place)) await this.sample(place);
    return this.keys.get(place);
  }

  keyNow(place) {
    return this.keys.get(place) ?? `image ${place}`;
  }

  placeOf(number) {
    return number;
  }

  async find(text) {
    const answer = await this.ask(`find?text=${encodeURIComponent(text)}`);
    return new Uint8Array(await answer.arrayBuffer());
  }

  // Reads records from the first that is not read; how many images were looked at.
  async read(place) {
    return this.table.fill(await (await this.ask(`read/${place}`)).arrayBuffer(), place, 2);
  }

  async plots() {
    return (await this.ask("plots")).json();
  }
}
