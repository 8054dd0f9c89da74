// What htmx does not do: the streamed answer, exclusions, the theme.
"use strict";

(() => {
  const session = document.body.dataset.session;
  const headers = { "X-MRRAG-Session": session };
  let running = null;

  // --- theme: the system's, unless this tab is told otherwise ---------------------------------
  const themes = ["auto", "light", "dark"];
  const theme = document.getElementById("theme");
  theme.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme;
    const next = themes[(themes.indexOf(now) + 1) % themes.length];
    document.documentElement.dataset.theme = next;
    theme.querySelector("span").textContent = next;
  });

  const picker = new FilmPicker(headers, alertWith);

  // --- asking --------------------------------------------------------------------------------
  const ask = document.getElementById("ask");

  function alertWith(text) {
    const place = document.getElementById("alert");
    const line = document.createElement("p");
    line.textContent = text;
    place.replaceChildren(line);
    place.scrollIntoView({ block: "nearest" });
  }

  function swap(target, html) {
    htmx.swap(`#${target}`, html, { swapStyle: "innerHTML" });
  }

  const told = {
    piece({ side, text }) {
      const place = document.querySelector(`[data-answer=${side}]`);
      if (place) place.textContent += text;
    },
    html({ target, html }) {
      swap(target, html);
    },
    error({ message }) {
      alertWith(message);
      document.getElementById("answer").removeAttribute("aria-busy");
    },
    done() {},
  };

  ask.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (picker.waits) {
      alertWith(picker.waits);
      return;
    }
    running?.abort();
    const mine = (running = new AbortController());
    document.getElementById("alert").replaceChildren();
    const answer = document.getElementById("answer");
    answer.setAttribute("aria-busy", "true");
    try {
      const response = await fetch(ask.action, {
        method: "POST",
        headers,
        body: new FormData(ask),
        signal: mine.signal,
      });
      const type = response.headers.get("Content-Type") || "";
      if (!type.startsWith("text/event-stream")) throw new Error(await FilmPicker.words(response));
      await read(response.body);
    } catch (error) {
      if (error.name !== "AbortError") alertWith(error.message);
    } finally {
      if (running === mine) answer.removeAttribute("aria-busy");
    }
  });

  async function read(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      let end;
      while ((end = text.indexOf("\n\n")) >= 0) {
        const [name, data] = text.slice(0, end).split("\n");
        text = text.slice(end + 2);
        told[name.slice("event: ".length)](JSON.parse(data.slice("data: ".length)));
      }
    }
  }

  // --- sliders, exclusions -------------------------------------------------------------------
  document.addEventListener("input", (event) => {
    const output = event.target.parentElement?.querySelector("output");
    if (event.target.type === "range" && output) output.value = Number(event.target.value).toFixed(2);
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.weights) {
      for (const [name, value] of Object.entries(JSON.parse(button.dataset.weights))) {
        const slider = document.getElementById(`weight-${name}`);
        if (!slider) continue;
        slider.value = value;
        slider.dispatchEvent(new Event("input", { bubbles: true }));
      }
    }
    if (button.dataset.exclude) exclude(button.dataset.exclude, button.dataset.value);
    if (button.dataset.include) {
      button.closest("li").remove();
      rank();
    }
    if (button.dataset.enlarge !== undefined) {
      const large = button.closest(".case").classList.toggle("large");
      button.setAttribute("aria-expanded", String(large));
    }
    if (button.dataset.question) document.getElementById("question").value = button.dataset.question;
  });

  // The page's session is filled in as a form is sent: nothing else names it.
  document.addEventListener("submit", (event) => {
    const field = event.target.querySelector("[data-fill-session]");
    if (field) field.value = session;
  });
  document.addEventListener("htmx:beforeRequest", () => {
    document.getElementById("alert").replaceChildren();
  });
  document.addEventListener("htmx:sendError", () => alertWith("the server cannot be reached"));

  function exclude(kind, value) {
    const item = document.createElement("li");
    const input = document.createElement("input");
    input.type = "hidden";
    input.name = `exclude_${kind}`;
    input.value = value;
    const what = document.createElement("span");
    what.textContent = `${kind === "patients" ? "patient" : "study"} ${value}`;
    const back = document.createElement("button");
    back.type = "button";
    back.dataset.include = "";
    back.textContent = "Put back";
    back.setAttribute("aria-label", `Put ${what.textContent} back`);
    back.dataset.include = value;
    item.append(input, what, back);
    document.getElementById("excluded").append(item);
    rank();
  }

  function rank() {
    htmx.trigger("#ranking", "rank");
  }

  // --- this session only ---------------------------------------------------------------------
  window.addEventListener("pagehide", () => {
    const form = new FormData();
    form.append("session", session);
    navigator.sendBeacon("/page/close", form);
  });
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) location.reload(); // its session has been closed
  });
})();
