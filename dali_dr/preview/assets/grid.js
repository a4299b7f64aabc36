// The images found, in rows of cards, of which only those in sight exist.

const ON_A_PAGE = 6000; // of the grid: browsers draw nothing below some ten million pixels
const CAPTION = 62; // pixels under the pictures
const GAP = 12;
const ON_A_CARD = 4; // views

class Grid {
  constructor(source, classes, labels, open) {
    Object.assign(this, { source, classes, labels, open });
    this.element = document.getElementById("grid");
    this.cards = new Map();
    this.places = new Int32Array(0);
    this.start = 0; // of the page
    this.current = 0; // in the page
    this.measure();
    addEventListener("scroll", () => this.later(), { passive: true });
    addEventListener("resize", () => this.reset());
    this.element.addEventListener("keydown", (event) => this.pressed(event));
  }

  get shown() {
    return this.places.subarray(this.start, this.start + ON_A_PAGE);
  }

  show(places, keep = false, why = "") {
    this.places = places;
    if (!keep || this.start >= places.length) [this.start, this.current] = [0, 0];
    const nothing = document.getElementById("nothing");
    nothing.hidden = places.length > 0;
    nothing.textContent = why || "No image fits these filters.";
    this.pager();
    this.reset();
  }

  pager() {
    const box = document.getElementById("pager");
    box.replaceChildren();
    if (this.places.length <= ON_A_PAGE) return;
    const turn = (text, name, by) => {
      const button = make("button", { type: "button", "aria-label": name }, text);
      button.disabled = this.start + by < 0 || this.start + by >= this.places.length;
      button.addEventListener("click", () => {
        this.start += by;
        this.current = 0;
        this.pager();
        this.reset();
        scrollTo(0, 0);
      });
      return button;
    };
    const last = Math.min(this.start + ON_A_PAGE, this.places.length);
    const text = `${whole(this.start + 1)}–${whole(last)} of ${whole(this.places.length)}`;
    box.append(turn("‹", "Page before", -ON_A_PAGE), make("span", {}, text), turn("›", "Next page", ON_A_PAGE));
  }

  measure() {
    const width = this.element.clientWidth || 800;
    const least = width < 500 ? 150 : 190;
    this.columns = Math.max(Math.floor((width + GAP) / (least + GAP)), 1);
    this.width = (width + GAP) / this.columns - GAP;
    this.strip = this.source.about.kind === "views" ? this.width / ON_A_CARD : 0;
    this.height = Math.round(this.width * 0.75 + this.strip + CAPTION);
  }

  reset() {
    this.measure();
    for (const card of this.cards.values()) card.remove();
    this.cards.clear();
    const rows = Math.ceil(this.shown.length / this.columns);
    this.element.style.height = `${Math.max(rows * (this.height + GAP) - GAP, 0)}px`;
    this.render();
  }

  later() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.render();
    });
  }

  render() {
    const top = -this.element.getBoundingClientRect().top;
    const step = this.height + GAP;
    const first = Math.max(Math.floor(top / step) - 1, 0) * this.columns;
    const last = Math.min((Math.ceil((top + innerHeight) / step) + 1) * this.columns, this.shown.length);
    for (const [at, card] of this.cards) {
      if ((at < first || at >= last) && !card.contains(document.activeElement)) {
        card.remove();
        this.cards.delete(at);
      }
    }
    for (let at = first; at < last; at++) if (!this.cards.has(at)) this.add(at);
  }

  add(at) {
    const place = this.shown[at];
    const canvas = make("canvas", { "aria-hidden": "true" });
    const lines = make("span", { className: "caption" });
    const card = make("button", { type: "button", className: "card", tabIndex: at === this.current ? 0 : -1 }, canvas, lines);
    const [row, column] = [Math.floor(at / this.columns), at % this.columns];
    card.style.transform = `translate(${column * (this.width + GAP)}px, ${row * (this.height + GAP)}px)`;
    card.style.width = `${this.width}px`;
    card.style.height = `${this.height}px`;
    const item = make("div", { role: "listitem", className: "item" }, card);
    card.addEventListener("click", () => this.openAt(at));
    card.addEventListener("focus", () => this.moved(at));
    this.cards.set(at, item);
    const before = [...this.cards.keys()].filter((other) => other > at);
    const next = before.length ? this.cards.get(Math.min(...before)) : null;
    this.element.insertBefore(item, next);
    this.caption(card, lines, place);
    this.paint(card, canvas, lines, place);
  }

  caption(card, lines, place) {
    const { table, about } = this.source;
    const label = this.labels.names[table.label[place]];
    const key = this.source.keyNow(place);
    const parts = [make("span", { className: "name" }, label)];
    let spoken = `${key}, label ${label}`;
    const teacher = table.teacher[place];
    if (teacher >= 0) {
      const differs = about.comparable && teacher !== table.label[place];
      const share = percent(table.confidence[place]);
      const line = make("span", { className: differs ? "guess differs" : "guess" });
      line.append(make("span", { className: "name" }, `${differs ? "≠ " : ""}${this.classes.names[teacher]}`), share);
      parts.push(line);
      spoken += `, teacher ${this.classes.names[teacher]} ${share}`;
    } else if (about.kind === "plain") {
      parts.push(make("span", { className: "guess" }, `${table.width[place]} × ${table.height[place]}`));
    }
    parts.push(make("span", { className: "key" }, key));
    lines.replaceChildren(...parts);
    card.setAttribute("aria-label", spoken);
    card.title = key;
  }

  async paint(card, canvas, lines, place) {
    const { source, width } = this;
    let told;
    try {
      told = await source.sample(place);
    } catch (error) {
      told = { error: error.message };
    }
    if (told.error) {
      const key = source.keyNow(place);
      const said = make("span", { className: "guess differs fault" }, told.error);
      lines.replaceChildren(said, make("span", { className: "key" }, key));
      card.classList.add("damaged");
      card.title = `${key}: ${told.error}`;
      card.setAttribute("aria-label", `${key}, cannot be shown: ${told.error}`);
      if (!performance.getEntriesByName("first picture").length) performance.mark("first picture");
      return;
    }
    if (source.served) this.caption(card, lines, place);
    if (!card.isConnected) return;
    const tall = width * 0.75;
    const context = sized(canvas, width, tall + this.strip);
    canvas.style.height = `${tall + this.strip}px`;
    const where = drawWhole(context, told.image, width, tall);
    if (told.map) drawMap(context, where, told.map, source.about.colours, 0.4);
    const few = { views: told.views.slice(0, ON_A_CARD) }; // the boxes of the views below
    drawBoxes(context, where, [source.table.height[place], source.table.width[place]], few, source.about);
    if (!performance.getEntriesByName("first picture").length) performance.mark("first picture");
    const pictures = await told.pictures.catch(() => []);
    if (!card.isConnected) return;
    pictures.slice(0, ON_A_CARD).forEach((picture, n) => {
      const left = n * this.strip;
      const { bitmap, x, y } = picture;
      const box = [left + 1, tall + 2, this.strip - 2, this.strip - 5];
      if (told.views[n].error) drawFault(context, ...box);
      else context.drawImage(bitmap, x, y, picture.width, picture.height, ...box);
      context.fillStyle = colourOf(n);
      context.fillRect(left + 1, tall + this.strip - 3, this.strip - 2, 3);
    });
  }

  moved(at) {
    this.cards.get(this.current)?.firstChild.setAttribute("tabindex", "-1");
    this.current = at;
    this.cards.get(at)?.firstChild.setAttribute("tabindex", "0");
  }

  focus(at) {
    const step = this.height + GAP;
    const top = this.element.getBoundingClientRect().top + scrollY + Math.floor(at / this.columns) * step;
    if (top < scrollY || top + step > scrollY + innerHeight) scrollTo(0, Math.max(top - innerHeight / 3, 0));
    this.render();
    this.cards.get(at)?.firstChild.focus({ preventScroll: true });
  }

  openAt(at) {
    this.moved(at);
    this.opened = at; // a dialog that closes gives the focus back to where it was opened from
    this.open(this.shown[at]);
  }

  // The image before or after the current one, for the dialog.
  step(by) {
    const at = this.current + by;
    if (at >= 0 && at < this.shown.length) this.openAt(at);
  }

  pressed(event) {
    const rows = Math.max(Math.floor(innerHeight / (this.height + GAP)), 1);
    const moves = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns,
      PageUp: -this.columns * rows, PageDown: this.columns * rows, Home: -this.current, End: this.shown.length,
    };
    if (!(event.key in moves) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    this.focus(Math.min(Math.max(this.current + moves[event.key], 0), this.shown.length - 1));
  }
}
