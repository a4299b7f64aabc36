// The page as a whole: what the reader asks for, and what is done about it.

const field = (name) => document.getElementById(name);

function wantedNow(labels, classes) {
  const share = (name) => (field(name).value === "" ? null : Number(field(name).value) / 100);
  return {
    text: field("text").value.trim().toLowerCase(),
    label: labels.find(field("label").value),
    teacher: classes.find(field("teacher").value),
    least: share("least"),
    most: share("most"),
    disagree: field("disagree").checked,
    order: field("order").value,
    turned: field("turn").getAttribute("aria-pressed") === "true",
  };
}

function summary(about) {
  const parts = [counted(about.of, "image"), counted(about.image_classes, "class", "classes")];
  const [least, most] = about.stored_views;
  if (about.kind === "views") parts.push(`${least === most ? most : `${least} to ${most}`} stored views each`);
  if (about.kind === "maps") parts.push(`label maps of ${about.maps.height} × ${about.maps.width} cells`);
  if (about.kind === "plain") parts.push("no stored views");
  if (about.spec) parts.push(`spec ${about.spec}`);
  if (about.teacher.length) {
    const others = about.outputs === about.image_classes ? "" : ` of ${counted(about.outputs, "output")}`;
    parts.push(`teacher ${about.teacher.join(", ")}${others}`);
  }
  return parts.join(" · ");
}

class App {
  constructor(source) {
    const { about } = source;
    this.source = source;
    this.labels = new ClassList(about.labels);
    this.classes = about.classes ? new ClassList(about.classes) : this.labels;
    field("summary").textContent = summary(about);
    const notes = [about.note];
    if (about.images < about.of) {
      notes.unshift(`${whole(about.images)} of ${whole(about.of)} images, spread evenly over the set.`);
    }
    field("note").textContent = notes.filter(Boolean).join(" ");
    field("note").hidden = !field("note").textContent;
    this.fillForm(about);
    this.grid = new Grid(source, this.classes, this.labels, (place) => this.viewer.open(place));
    this.viewer = new Viewer(source, this.classes, this.labels, {
      step: (by) => this.grid.step(by),
      closed: () => this.grid.focus(this.grid.opened),
    });
    this.listen();
  }

  fillForm(about) {
    const names = ordersFor(about).filter((name) => name !== "key" || about.keys);
    for (const name of names) field("order").append(make("option", { value: name }, ORDERS[name][0]));
    const list = (element, classes) => {
      field(element).append(...classes.map((value) => make("option", { value })));
    };
    list("labels", this.labels.shown.slice(0, about.image_classes));
    list("classes", this.classes.shown);
    const taught = about.kind === "maps" || (about.kind === "views" && about.topk > 0);
    for (const element of document.querySelectorAll(".of-teacher")) element.hidden = !taught;
    field("disagree-label").hidden = !taught || !about.comparable;
    if (about.kind === "maps") field("range-name").textContent = "Share of the leading class";
  }

  listen() {
    const form = field("filters");
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => {
      clearTimeout(this.waiting);
      this.waiting = setTimeout(() => this.update(), 120);
    });
    form.addEventListener("reset", () => {
      field("turn").setAttribute("aria-pressed", "false");
      field("turn").textContent = "↑";
      setTimeout(() => this.update());
    });
    field("turn").addEventListener("click", () => {
      const turned = field("turn").getAttribute("aria-pressed") !== "true";
      field("turn").setAttribute("aria-pressed", String(turned));
      field("turn").textContent = turned ? "↓" : "↑";
      this.update();
    });
    field("show-images").addEventListener("click", () => this.turnTo("images"));
    field("show-plots").addEventListener("click", () => this.turnTo("plots"));
    document.addEventListener("keydown", (event) => {
      const typing = event.target.matches?.("input, select, textarea") || field("dialog").open;
      if (event.key !== "/" || typing || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      this.turnTo("images");
      field("text").focus();
    });
  }

  async update(keep = false) {
    const wanted = wantedNow(this.labels, this.classes);
    const turn = (this.turnNumber = (this.turnNumber ?? 0) + 1);
    if (wanted.text && this.masked !== wanted.text) {
      const mask = await this.source.find(wanted.text);
      if (turn !== this.turnNumber) return;
      [this.masked, this.mask] = [wanted.text, mask];
    }
    const places = chosen(this.source, wanted, wanted.text ? this.mask : null);
    const faults = impossible(wanted, field("range-name").textContent);
    for (const name of ["label", "teacher", "least", "most"]) {
      field(name).setAttribute("aria-invalid", String(name in faults));
    }
    const of = this.source.table.length;
    field("count").textContent = places.length === of ? counted(of, "image") : `${whole(places.length)} of ${counted(of, "image")}`;
    this.grid.show(places, keep, Object.values(faults)[0]);
    if (this.source.served) this.offer(needsRecords(wanted));
  }

  // Of a server: records are read when they are needed, and all of them only when that is asked for.
  offer(needed) {
    const { known, length } = this.source.table;
    let read = 0;
    for (let i = 0; i < length; i++) if (known[i] === 2) read++;
    const box = field("reading");
    box.replaceChildren();
    if (!needed || read === length) return;
    const text = `This filter or order needs records: ${whole(read)} of ${whole(length)} are read, and only those are here. `;
    const button = make("button", { type: "button" }, this.busy ? "Stop" : "Read all");
    button.addEventListener("click", () => {
      this.busy = !this.busy;
      if (this.busy) this.readAll();
      else this.offer(true);
    });
    box.append(text, button);
  }

  async readAll() {
    const { table } = this.source;
    let at = 0;
    let last = performance.now();
    this.update(true);
    while (this.busy && at < table.length) {
      if (table.known[at] === 2) at++;
      else at += await this.source.read(at);
      if (performance.now() - last > 1500) {
        last = performance.now();
        this.update(true);
      }
    }
    this.busy = false;
    this.update(true);
  }

  async turnTo(part) {
    for (const name of ["images", "plots"]) {
      field(name).hidden = name !== part;
      field(`show-${name}`).setAttribute("aria-pressed", String(name === part));
    }
    if (part === "images") this.grid.reset();
    if (part !== "plots" || this.plotted) return;
    const section = field("plots");
    section.textContent = "Reading records…";
    for (;;) {
      const { plots, note } = await this.source.plots();
      if (!plots) {
        section.textContent = note;
        await new Promise((resolve) => setTimeout(resolve, 700));
        continue;
      }
      this.plotted = true;
      showPlots(section, plots, note, (number) => this.choose(number));
      return;
    }
  }

  choose(number) {
    field("filters").reset();
    field("label").value = this.labels.shown[number];
    this.turnTo("images");
    this.update();
  }
}

async function start() {
  const about = await jsonOf(await block("set"));
  const source = about.served ? new Served(about) : new Embedded(about);
  let app = null;
  await source.open(() => app?.update(true));
  app = new App(source);
  await app.update();
}

function failed(error) {
  field("count").textContent = `This page cannot be shown: ${error.message}`;
  console.error(error);
}

start().catch(failed);
