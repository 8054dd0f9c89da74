// The films of the question: chosen, added, shown by turns, moved, taken away. The server holds
// them. What it says of them is numbered, so that whatever arrives late changes nothing.
"use strict";

class FilmPicker {
  constructor(headers, alertWith) {
    this.headers = headers;
    this.alertWith = alertWith;
    this.place = document.getElementById("film");
    this.viewer = document.getElementById("viewer");
    this.empty = this.viewer.innerHTML;
    this.file = document.getElementById("file");
    this.another = document.getElementById("another");
    this.study = 0; // of the choice made last
    this.key = 0; // of the file sent last
    this.uploads = []; // that have not ended
    this.last = Promise.resolve();
    this.views = new Map(); // window and place of each film, by its number
    this.listen();
  }

  get films() {
    return document.getElementById("films");
  }

  get held() {
    return Number(this.films.dataset.study);
  }

  get seen() {
    return this.viewer.querySelector("[data-film]")?.dataset.number ?? "";
  }

  // Why nothing can be asked now; empty if it can.
  get waits() {
    return this.uploads.length ? "a film is still being read: wait for it, or cancel it" : "";
  }

  // --- choosing ------------------------------------------------------------------------------

  choose(sent, adds = false) {
    if (!sent.length) return;
    if (!this.held && !this.uploads.length) adds = false;
    if (!adds) {
      for (const upload of this.uploads) upload.controller.abort();
      this.uploads = [];
      this.study += 1;
    }
    const begins = this.uploads.some((upload) => !upload.adds);
    const upload = {
      adds,
      study: adds && !begins ? this.held : this.study,
      controller: new AbortController(),
      files: [...sent].map((file) => ({ file, key: ++this.key, gone: false })),
    };
    this.uploads.push(upload);
    FilmPicker.hush();
    this.tellComing();
    // One after the other: films stand in the order in which they were chosen.
    this.last = this.last.then(() => this.upload(upload));
  }

  async upload(upload) {
    const { signal } = upload.controller;
    const files = upload.files.filter(({ gone }) => !gone);
    try {
      if (signal.aborted || !files.length) return;
      if (upload.adds && upload.study !== this.held) {
        throw new Error("not added: the film that it belongs to could not be read");
      }
      const response = await fetch("/page/film", {
        method: "POST",
        headers: this.headers,
        body: this.formOf(upload, files),
        signal,
      });
      if (!response.ok) throw new Error(await FilmPicker.words(response));
      const text = await response.text();
      if (!signal.aborted) this.apply(text);
    } catch (error) {
      if (!signal.aborted) this.alertWith(FilmPicker.reason(error));
    } finally {
      this.uploads = this.uploads.filter((one) => one !== upload);
      this.tellComing();
    }
  }

  formOf(upload, files) {
    const most = Number(document.body.dataset.mostBytes);
    const bytes = files.reduce((sum, { file }) => sum + (file.size ?? 0), 0);
    if (bytes > most) {
      const mebibytes = (value) => `${(value / 2 ** 20).toFixed(1)} MiB`;
      const those = files.length > 1 ? `these ${files.length} files have` : "this file has";
      throw new Error(`${those} ${mebibytes(bytes)}, and this server takes ${mebibytes(most)} at once`);
    }
    const form = new FormData();
    form.append("study", upload.study);
    form.append("seen", this.seen);
    if (upload.adds) form.append("add", "1");
    const frame = document.getElementById("frame").value;
    for (const { file, key } of files) {
      form.append("key", key);
      if (file instanceof File) form.append("image", file);
      else form.append("example", file);
    }
    if (frame && files[0].file instanceof File) form.append("frame", frame);
    return form;
  }

  cancel(key) {
    for (const upload of this.uploads) {
      const file = upload.files.find((one) => one.key === key);
      if (!file) continue;
      file.gone = true;
      if (upload.files.every(({ gone }) => gone)) upload.controller.abort();
    }
    this.tellComing();
    this.act("remove", { key }); // it may be there by now, or come after this
  }

  // --- what the server holds -----------------------------------------------------------------

  async act(name, values) {
    const body = new FormData();
    body.append("seen", this.seen);
    for (const [field, value] of Object.entries(values)) body.append(field, value);
    const mine = new AbortController();
    FilmPicker.hush();
    if (name === "show") {
      this.showing?.abort();
      this.showing = mine;
    }
    try {
      const request = { method: "POST", headers: this.headers, body, signal: mine.signal };
      const response = await fetch(`/page/${name}`, request);
      if (!response.ok) throw new Error(await FilmPicker.words(response));
      this.apply(await response.text());
    } catch (error) {
      if (error.name !== "AbortError") this.alertWith(FilmPicker.reason(error));
    }
  }

  apply(text) {
    const told = new DOMParser().parseFromString(text, "text/html");
    const films = told.getElementById("films");
    const before = this.films;
    const newer = Number(films.dataset.revision) - Number(before.dataset.revision);
    if (newer < 0) return;
    const focus = this.focused();
    before.replaceWith(films);
    const viewer = told.querySelector("[data-viewer]");
    if (viewer) this.view(viewer);
    for (const button of films.querySelectorAll("[data-act=show]")) {
      button.setAttribute("aria-pressed", String(button.dataset.number === this.seen));
    }
    this.focus(focus);
    const several = films.querySelectorAll("li").length > 1;
    const combine = document.getElementById("combine");
    combine.disabled = !several;
    combine.parentElement.hidden = !several;
    document.getElementById("films-said").textContent = films.dataset.said;
    if (newer) document.querySelector("[data-other-film]")?.removeAttribute("hidden");
  }

  view(told) {
    const before = this.viewer.querySelector("[data-film]");
    if (before?.viewer?.samples) this.views.set(before.dataset.number, before.viewer.state);
    const root = told.querySelector("[data-film]");
    if (!root) {
      this.viewer.innerHTML = this.empty;
      return;
    }
    this.viewer.replaceChildren(...told.childNodes);
    document.getElementById("choose").open = false;
    root.viewer = new FilmViewer(root, this.headers, this.views.get(root.dataset.number));
    root.viewer.ready.then(
      () => root.setAttribute("data-ready", ""),
      (error) => root.isConnected && this.alertWith(FilmPicker.reason(error)),
    );
  }

  // --- focus, which a person must not lose where a button goes ---------------------------------

  focused() {
    const button = document.activeElement?.closest("#films [data-act]");
    if (!button) return null;
    const items = [...this.films.querySelectorAll("li")];
    const { act, number } = button.dataset;
    return { act, number, place: items.indexOf(button.closest("li")) };
  }

  focus(was) {
    if (!was) return;
    const all = [...this.films.querySelectorAll("[data-act]:not(:disabled)")];
    const same = all.filter(({ dataset }) => dataset.number === was.number);
    const picks = all.filter(({ dataset }) => dataset.act === "show");
    const next =
      same.find(({ dataset }) => dataset.act === was.act) ??
      same[0] ??
      picks[Math.min(was.place, picks.length - 1)] ??
      this.viewer.querySelector("canvas");
    next?.focus();
  }

  tellComing() {
    const lines = this.uploads.flatMap((upload) =>
      upload.files
        .filter(({ gone }) => !gone)
        .map(({ file, key }) => {
          const line = document.createElement("li");
          const name = file instanceof File ? file.name : "example";
          const cancel = document.createElement("button");
          cancel.type = "button";
          cancel.dataset.cancel = key;
          cancel.textContent = "Cancel";
          cancel.setAttribute("aria-label", `Cancel ${name}`);
          line.append(`reading ${name} … `, cancel);
          return line;
        }),
    );
    document.getElementById("coming").replaceChildren(...lines);
  }

  listen() {
    const { place, file, another } = this;
    document.getElementById("upload").addEventListener("submit", (event) => event.preventDefault());
    file.addEventListener("change", () => this.choose(file.files));
    another?.addEventListener("change", () => {
      this.choose(another.files, true);
      another.value = "";
    });
    place.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      const { act, number, cancel, example } = button.dataset;
      if (act) this.act(act, { film: number });
      if (cancel) this.cancel(Number(cancel));
      if (example) this.choose([example]);
    });
    place.addEventListener("window", ({ detail }) => this.act("window", detail));
    for (const name of ["dragenter", "dragover"]) {
      document.addEventListener(name, (event) => {
        event.preventDefault();
        place.classList.add("dropping");
      });
    }
    for (const name of ["dragleave", "drop"]) {
      document.addEventListener(name, () => place.classList.remove("dropping"));
    }
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      this.choose(event.dataTransfer.files, Boolean(event.target.closest?.("#add")));
    });
  }

  // --- in words ------------------------------------------------------------------------------

  static async words(response) {
    const text = await response.text();
    if ((response.headers.get("Content-Type") || "").startsWith("application/json")) {
      return JSON.parse(text).error.message;
    }
    const told = new DOMParser().parseFromString(text, "text/html");
    return told.body.textContent.trim() || "the server gave no answer";
  }

  static hush() {
    document.getElementById("alert").replaceChildren();
  }

  static reason(error) {
    return error instanceof TypeError ? "the server cannot be reached" : error.message;
  }
}

window.FilmPicker = FilmPicker;
