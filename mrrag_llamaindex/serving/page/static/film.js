// The film viewer: window and level, zoom and pan, invert, on a canvas. No dependencies.
// Samples arrive as the server decoded them (16 bits of grey, or 8 bits of colour), so that moving
// the window shows what the file holds, not what one window has left of it.
"use strict";

class FilmViewer {
  constructor(root, headers, state = null) {
    this.root = root;
    this.data = JSON.parse(root.dataset.film);
    this.canvas = root.querySelector("canvas");
    this.readout = root.querySelector("[data-readout]");
    this.level = root.querySelector("[data-level]");
    this.width = root.querySelector("[data-width]");
    this.page = document.createElement("canvas");
    this.page.width = this.data.width;
    this.page.height = this.data.height;
    this.pixels = this.page.getContext("2d").createImageData(this.data.width, this.data.height);
    this.mode = "window";
    this.listen();
    this.ready = this.load(headers).then(() => {
      this.reset();
      if (state) this.state = state;
    });
  }

  // How it is looked at, for when it is shown again.
  get state() {
    const { low, high, zoom, x, y, inverted } = this;
    return { low, high, zoom, x, y, inverted };
  }

  set state(state) {
    Object.assign(this, state);
    this.draw(true);
  }

  async load(headers) {
    const response = await fetch(this.data.source, { headers, cache: "no-store" });
    if (!response.ok) throw new Error("the film could not be loaded");
    const bytes = await response.arrayBuffer();
    this.samples = this.data.channels === 1 ? new Uint16Array(bytes) : new Uint8Array(bytes);
  }

  reset() {
    this.zoom = 1;
    this.x = 0;
    this.y = 0;
    this.inverted = false;
    this.preset("read");
  }

  preset(name) {
    const ends = this.data.presets[name];
    if (!ends) return;
    this.low = ends[0];
    this.high = ends[1];
    this.draw(true);
  }

  // --- drawing -----------------------------------------------------------------------------

  table() {
    const size = this.data.channels === 1 ? 65536 : 256;
    const levels = new Uint8ClampedArray(size);
    const turn = this.inverted !== this.data.low_is_white;
    for (let sample = 0; sample < size; sample++) {
      const value = this.data.slope * sample + this.data.intercept;
      const level = (255 * (value - this.low)) / (this.high - this.low);
      levels[sample] = turn ? 255 - level : level;
    }
    return levels;
  }

  draw(windowed = false) {
    if (windowed) this.stale = true;
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      if (!this.samples) return;
      if (this.stale) this.windowed();
      this.placed();
      this.tell();
    });
  }

  windowed() {
    this.stale = false;
    const levels = this.table();
    const out = this.pixels.data;
    const { samples } = this;
    if (this.data.channels === 1) {
      for (let i = 0, o = 0; i < samples.length; i++, o += 4) {
        out[o] = out[o + 1] = out[o + 2] = levels[samples[i]];
        out[o + 3] = 255;
      }
    } else {
      for (let i = 0, o = 0; i < samples.length; i += 3, o += 4) {
        out[o] = levels[samples[i]];
        out[o + 1] = levels[samples[i + 1]];
        out[o + 2] = levels[samples[i + 2]];
        out[o + 3] = 255;
      }
    }
    this.page.getContext("2d").putImageData(this.pixels, 0, 0);
  }

  scale() {
    const { canvas, page } = this;
    return Math.min(canvas.width / page.width, canvas.height / page.height) * this.zoom;
  }

  placed() {
    const ratio = window.devicePixelRatio || 1;
    const box = this.canvas.getBoundingClientRect();
    this.canvas.width = Math.max(1, Math.round(box.width * ratio));
    this.canvas.height = Math.max(1, Math.round(box.height * ratio));
    const context = this.canvas.getContext("2d");
    const scale = this.scale();
    context.imageSmoothingEnabled = scale < 4;
    context.fillStyle = "#000";
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    context.translate(this.canvas.width / 2 + this.x * ratio, this.canvas.height / 2 + this.y * ratio);
    context.scale(scale, scale);
    context.drawImage(this.page, -this.page.width / 2, -this.page.height / 2);
  }

  tell() {
    const round = (value) => (this.high - this.low < 20 ? value.toFixed(2) : Math.round(value));
    if (document.activeElement !== this.level) this.level.value = round((this.low + this.high) / 2);
    if (document.activeElement !== this.width) this.width.value = round(this.high - this.low);
    this.root.querySelector("[data-zoom-readout]").textContent = `${Math.round(100 * this.zoom)} %`;
    this.root
      .querySelector("[data-do=invert]")
      .setAttribute("aria-pressed", String(this.inverted));
    for (const button of this.root.querySelectorAll("[data-preset]")) {
      const ends = this.data.presets[button.dataset.preset];
      const now = Math.abs(ends[0] - this.low) < 1e-9 && Math.abs(ends[1] - this.high) < 1e-9;
      button.setAttribute("aria-pressed", String(now));
    }
  }

  // --- what a person does ------------------------------------------------------------------

  move(level, width) {
    const smallest = Math.max(1e-6, Math.abs(this.data.slope));
    const centre = (this.low + this.high) / 2 + level;
    const half = Math.max(smallest, this.high - this.low + width) / 2;
    this.low = centre - half;
    this.high = centre + half;
    this.draw(true);
  }

  zoomBy(factor, at) {
    const next = Math.min(32, Math.max(0.25, this.zoom * factor));
    const real = next / this.zoom;
    if (at) {
      this.x = at.x - (at.x - this.x) * real;
      this.y = at.y - (at.y - this.y) * real;
    } else {
      this.x *= real;
      this.y *= real;
    }
    this.zoom = next;
    this.draw();
  }

  step() {
    const [low, high] = this.data.presets.full;
    return (high - low) / 100;
  }

  invert() {
    this.inverted = !this.inverted;
    this.draw(true);
  }

  act(name) {
    if (name === "invert") this.invert();
    if (name === "reset") this.reset();
    if (name === "in") this.zoomBy(1.25);
    if (name === "out") this.zoomBy(0.8);
    if (name === "window" || name === "pan") {
      this.mode = name;
      for (const button of this.root.querySelectorAll("[data-mode]")) {
        button.setAttribute("aria-pressed", String(button.dataset.do === name));
      }
    }
  }

  key(event) {
    const step = this.step();
    const moves = {
      ArrowUp: [0, -1],
      ArrowDown: [0, 1],
      ArrowLeft: [-1, 0],
      ArrowRight: [1, 0],
    };
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    if (event.key in moves) {
      const [dx, dy] = moves[event.key];
      if (event.shiftKey) {
        this.x -= 20 * dx;
        this.y -= 20 * dy;
        this.draw();
      } else this.move(-dy * step, dx * step);
      return true;
    }
    const names = Object.keys(this.data.presets);
    const number = Number(event.key);
    if (event.key !== " " && number >= 1 && number <= names.length) this.preset(names[number - 1]);
    else if (event.key === "+" || event.key === "=") this.zoomBy(1.25);
    else if (event.key === "-") this.zoomBy(0.8);
    else if (event.key === "i") this.invert();
    else if (event.key === "r" || event.key === "0") this.reset();
    else return false;
    return true;
  }

  listen() {
    const { canvas, root } = this;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      canvas.focus();
      const pan = event.shiftKey || event.button === 1 || this.mode === "pan";
      this.drag = { x: event.clientX, y: event.clientY, pan };
      event.preventDefault();
    });
    canvas.addEventListener("pointermove", (event) => {
      this.probe(event);
      if (!this.drag) return;
      const dx = event.clientX - this.drag.x;
      const dy = event.clientY - this.drag.y;
      this.drag.x = event.clientX;
      this.drag.y = event.clientY;
      if (this.drag.pan) {
        this.x += dx;
        this.y += dy;
        this.draw();
      } else this.move((dy * this.step()) / 3, (dx * this.step()) / 2);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => (this.drag = null));
    }
    canvas.addEventListener("pointerleave", () => (this.readout.textContent = ""));
    canvas.addEventListener("dblclick", () => this.reset());
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const box = canvas.getBoundingClientRect();
        const at = {
          x: event.clientX - box.left - box.width / 2,
          y: event.clientY - box.top - box.height / 2,
        };
        this.zoomBy(event.deltaY < 0 ? 1.1 : 1 / 1.1, at);
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => {
      if (this.key(event)) event.preventDefault();
    });
    root.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      if (button.dataset.read !== undefined) {
        const detail = { film: root.dataset.number, low: this.low, high: this.high };
        root.dispatchEvent(new CustomEvent("window", { detail, bubbles: true }));
      }
      if (button.dataset.preset) this.preset(button.dataset.preset);
      if (button.dataset.do) this.act(button.dataset.do);
    });
    for (const input of [this.level, this.width]) {
      input.addEventListener("input", () => {
        const level = Number(this.level.value);
        const width = Number(this.width.value);
        if (!(width > 0) || !Number.isFinite(level)) return;
        this.low = level - width / 2;
        this.high = level + width / 2;
        this.draw(true);
      });
    }
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  probe(event) {
    if (!this.samples) return;
    const ratio = window.devicePixelRatio || 1;
    const box = this.canvas.getBoundingClientRect();
    const scale = this.scale() / ratio;
    const column = Math.floor((event.clientX - box.left - box.width / 2 - this.x) / scale + this.page.width / 2);
    const row = Math.floor((event.clientY - box.top - box.height / 2 - this.y) / scale + this.page.height / 2);
    const inside = column >= 0 && row >= 0 && column < this.page.width && row < this.page.height;
    if (!inside) {
      this.readout.textContent = "";
      return;
    }
    const place = (row * this.page.width + column) * this.data.channels;
    const value = this.data.slope * this.samples[place] + this.data.intercept;
    const shown = Number.isInteger(value) ? value : value.toPrecision(4);
    this.readout.textContent = `${column}, ${row}: ${shown} ${this.data.unit}`;
  }
}

window.FilmViewer = FilmViewer;
