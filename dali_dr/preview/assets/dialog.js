// One image with all that is known of it.

const ROW_ORDERS = { confidence: "the surest first", entropy: "those of least entropy first" };

class Viewer {
  constructor(source, classes, labels, hooks) {
    Object.assign(this, { source, classes, labels, hooks });
    this.box = document.getElementById("dialog");
    this.chosen = null; // of the views
    this.opacity = 0.45; // of a label map
    this.box.addEventListener("keydown", (event) => this.pressed(event));
    this.box.addEventListener("close", () => this.hooks.closed());
    this.box.addEventListener("click", (event) => event.target === this.box && this.box.close());
  }

  async open(place) {
    this.place = place;
    this.chosen = null;
    const told = await this.source.sample(place).catch((error) => ({ views: [], error: error.message }));
    const key = this.source.keyNow(place);
    if (this.place !== place) return;
    this.told = told;
    this.build(key);
    if (!this.box.open) this.box.showModal();
    this.box.querySelector(".close").focus();
    if (told.error) return;
    this.paint();
    const pictures = await told.pictures;
    if (this.place !== place) return;
    this.box.querySelectorAll(".view").forEach((card, n) => this.drawView(card.querySelector("canvas"), pictures[n]));
    if (!this.source.served) return;
    this.large = await this.source.large(place).catch(() => null);
    if (this.place !== place) return;
    this.paint();
    this.sharpen(place);
  }

  build(key) {
    const { place, told } = this;
    this.large = null;
    const button = (text, name, act) => {
      const element = make("button", { type: "button", className: name, "aria-label": name }, text);
      element.addEventListener("click", act);
      return element;
    };
    const title = make("h2", { id: "dialog-title" }, key);
    const bar = make(
      "div",
      { className: "dialog-bar" },
      title,
      button("‹", "previous", () => this.hooks.step(-1)),
      button("›", "next", () => this.hooks.step(1)),
      button("×", "close", () => this.box.close()),
    );
    if (told.error) {
      this.canvas = null;
      const said = make("div", { className: "dialog-fault" }, make("p", { role: "alert" }, told.error), this.table());
      this.box.replaceChildren(bar, said);
      return;
    }
    this.canvas = make("canvas", { className: "original", role: "img", "aria-label": `The image ${key}` });
    const left = make("div", { className: "dialog-left" }, this.canvas);
    if (told.map) left.append(this.slider());
    else left.append(this.table());
    const views = make("ol", { className: "views" });
    told.views.forEach((view, n) => views.append(this.view(view, n)));
    const what = told.map
      ? "In each cell the class with the highest score, as training lays the map over the image."
      : told.views.length
        ? `${told.views.length} of ${this.source.table.views[place]} stored views, as training gets them, ${ROW_ORDERS[this.source.about.row_order] ?? "in their order"}.`
        : "No stored views.";
    const right = make("div", { className: "dialog-right" }, make("p", { className: "quiet" }, what), views);
    if (told.map) right.append(this.legend(), this.table());
    const body = make("div", { className: "dialog-body" }, left, ...(this.source.about.kind === "plain" ? [] : [right]));
    this.box.replaceChildren(bar, body);
  }

  table() {
    const { place } = this;
    const { table, about } = this.source;
    const rows = [
      ["Number", whole(table.number[place])],
      ["Label", `${this.labels.names[table.label[place]]} (${table.label[place]})`],
      ["Size", `${table.width[place]} × ${table.height[place]} pixels, ${whole(table.image_bytes[place])} bytes`],
    ];
    if (table.teacher[place] >= 0) {
      const name = this.classes.names[table.teacher[place]];
      const differs = about.comparable && table.teacher[place] !== table.label[place];
      rows.push([differs ? "Teacher ≠ label" : "Teacher", `${name} (${table.teacher[place]})`]);
    }
    if (about.kind === "views") {
      rows.push(["Confidence", `${percent(table.confidence[place])}, mean of the views`]);
      rows.push(["Entropy", `${nats(table.entropy[place])} nats, mean of the views`]);
      rows.push(["KL between views", `${nats(table.divergence[place])} nats, mean to their mean`]);
      if (about.comparable) rows.push(["Views that agree", `${percent(table.agreement[place])} with the label`]);
      const each = table.views[place] ? (table.record_bytes[place] / table.views[place]).toFixed(1) : "–";
      rows.push(["Record", `${whole(table.record_bytes[place])} bytes, ${each} a view`]);
    } else if (about.kind === "maps") {
      rows.push(["Leading class", `in ${percent(table.confidence[place])} of the cells`]);
      rows.push(["Record", `${whole(table.record_bytes[place])} bytes`]);
    }
    const list = make("dl", {});
    for (const [name, value] of rows) list.append(make("dt", {}, name), make("dd", {}, value));
    return list;
  }

  slider() {
    const input = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: this.opacity });
    input.addEventListener("input", () => {
      this.opacity = Number(input.value);
      this.paint();
    });
    return make("label", { className: "slider" }, "Map ", input);
  }

  legend() {
    const counts = new Map();
    for (const number of this.told.map.flat()) counts.set(number, (counts.get(number) ?? 0) + 1);
    const cells = this.told.map.flat().length;
    const list = make("ul", { className: "legend" });
    for (const [number, count] of [...counts].sort((a, b) => b[1] - a[1]).slice(0, 8)) {
      const spot = make("span", { className: "spot" });
      spot.style.background = `rgb(${this.source.about.colours[number].join(" ")})`;
      list.append(make("li", {}, spot, `${this.classes.names[number]} ${percent(count / cells)}`));
    }
    return list;
  }

  view(view, n) {
    const picture = view.error
      ? make("span", { className: "fault", role: "alert" }, view.error)
      : make("canvas", { role: "img", "aria-label": `View ${view.row}` });
    const best = view.classes.map(([number, share]) => {
      const bar = make("span", { className: "row-bar" });
      bar.style.width = `${100 * share}%`;
      const track = make("span", { className: "row-track" }, bar);
      return make("li", {}, make("span", { className: "row-name" }, this.classes.names[number]), track, percent(share));
    });
    const card = make(
      "button",
      { type: "button", className: "view", "aria-pressed": "false", title: "Show its crop in the image" },
      picture,
      make("strong", {}, `View ${view.row}`),
    );
    card.style.setProperty("--colour", colourOf(n));
    card.addEventListener("click", () => this.choose(this.chosen === n ? null : n));
    card.addEventListener("mouseenter", () => this.paint(n));
    card.addEventListener("mouseleave", () => this.paint());
    card.addEventListener("focus", () => this.paint(n));
    const text = make("div", { className: "view-text" }, make("ul", { className: "best" }, ...best), ...this.steps(view));
    return make("li", {}, card, text);
  }

  // What makes the view, in words.
  steps(view) {
    const said = (one) => {
      const [top, left, height, width] = one.box.map((edge) => Math.round(edge));
      const words = [`crop ${width} × ${height} at (${left}, ${top})`];
      if (one.flip) words.push("flip ⇄");
      for (const [name, magnitude] of one.ops) words.push(magnitude === null ? name : `${name} ${magnitude}`);
      if (one.erase) words.push(`erase ${one.erase[3]} × ${one.erase[2]} at (${one.erase[1]}, ${one.erase[0]})`);
      return make("ul", { className: "chips" }, ...words.map((word) => make("li", {}, word)));
    };
    const parts = [said(view)];
    if (view.mix) {
      const { mix } = view;
      const words = [];
      if (mix.lam < 1) words.push(`MixUp: ${percent(mix.swapped ? 1 - mix.lam : mix.lam)} of this image`);
      if (mix.cut) words.push(`CutMix: box ${mix.cut[3]} × ${mix.cut[2]} at (${mix.cut[1]}, ${mix.cut[0]})`);
      if (mix.swapped) words.push("places exchanged");
      const whom = mix.partner === null ? "another view of itself" : `image ${mix.partner}`;
      const line = make("p", { className: "mixed" }, `Mixed with ${whom}. ${words.join(", ")}. `);
      if (mix.partner !== null) this.partner(line, mix.partner);
      parts.push(line, said(mix));
    }
    return parts;
  }

  // The key of a partner, which opens it, and its picture, if it is in the page.
  async partner(line, number) {
    const place = this.source.placeOf(number);
    if (place < 0) return;
    const told = await this.source.sample(place).catch((error) => ({ error: error.message }));
    const key = this.source.keyNow(place);
    if (told.error) {
      line.append(make("span", { className: "guess differs" }, `${key} cannot be shown: ${told.error}`));
      return;
    }
    const picture = make("canvas", { className: "partner", role: "img", "aria-label": `The partner ${key}` });
    const link = make("button", { type: "button", className: "link" }, picture, key);
    link.addEventListener("click", () => this.open(place));
    line.append(link);
    drawWhole(sized(picture, 48, 36), told.image, 48, 36);
  }

  choose(n) {
    this.chosen = n;
    this.box.querySelectorAll(".view").forEach((card, i) => card.setAttribute("aria-pressed", String(i === n)));
    this.paint();
  }

  paint(only = this.chosen) {
    const { told, place } = this;
    const { table, about } = this.source;
    const picture = this.large ?? told.image;
    const width = this.canvas.parentElement.clientWidth || 320;
    const shape = picture.height / picture.width;
    const height = Math.min(width * shape, Math.max(window.innerHeight * 0.6, 200));
    this.canvas.style.height = `${height}px`;
    const context = sized(this.canvas, width, height);
    const where = drawWhole(context, picture, width, height);
    if (told.map) drawMap(context, where, told.map, about.colours, this.opacity);
    drawBoxes(context, where, [table.height[place], table.width[place]], told, about, only);
  }

  drawView(canvas, picture) {
    if (!canvas) return; // of a view that cannot be shown
    const edge = canvas.clientWidth || 116;
    drawWhole(sized(canvas, edge, edge), picture, edge, edge);
  }

  // Views at full size, where there is a server to ask.
  async sharpen(place) {
    const cards = [...this.box.querySelectorAll(".view")];
    for (const [n, view] of this.told.views.entries()) {
      if (view.error) continue;
      const picture = await this.source.largeView(place, view.row).catch(() => null);
      if (this.place !== place || !picture) return;
      this.drawView(cards[n].querySelector("canvas"), picture);
    }
  }

  pressed(event) {
    if (event.target.matches?.("input")) return;
    const views = this.told?.views.length ?? 0;
    const acts = {
      ArrowLeft: () => this.hooks.step(-1),
      ArrowRight: () => this.hooks.step(1),
      ArrowDown: () => views && this.choose(this.chosen === null ? 0 : (this.chosen + 1) % views),
      ArrowUp: () => views && this.choose(this.chosen === null ? views - 1 : (this.chosen + views - 1) % views),
    };
    if (!acts[event.key] || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    acts[event.key]();
  }
}
