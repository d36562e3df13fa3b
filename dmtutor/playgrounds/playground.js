// What the playgrounds have in common: an element that starts nothing by itself, rests where nobody looks, moves
// nothing for those who do not want it, and speaks only when it rests.

// The colours of dmtutor/plotting.py. Canvases keep the paper ground on both themes, as the book's figures do.
export const PAPER = [252, 251, 248], ORANGE = [213, 94, 0], BLUE = [0, 114, 178];
export const INK = "#222222", SAND = "#c9c5ba";
export const css = (color) => `rgb(${color})`;

const STYLE = `
  :host { display: block; margin: 1rem 0; color: inherit; font: inherit; line-height: 1.45; }
  .row { display: flex; flex-wrap: wrap; gap: .4rem .8rem; align-items: center; margin: .6rem 0; }
  p { margin: .6rem 0; }
  label { display: flex; flex-wrap: wrap; gap: .2rem .5rem; align-items: center; }
  input { width: 7rem; max-width: 100%; }
  button.act, select { font: inherit; color: inherit; background: transparent; border: 1px solid currentcolor;
    border-radius: .3rem; padding: .2rem .6rem; min-height: 2rem; max-width: 100%; cursor: pointer; }
  :is(button.act, select):disabled { opacity: .45; cursor: default; }
  button.act[aria-pressed=true] { box-shadow: inset 0 0 0 2px currentcolor; }
  #run { font-weight: bold; min-width: 7rem; }
  select option { color: ${INK}; background: #fff; }
  :focus-visible { outline: 3px solid ${css(BLUE)}; outline-offset: 2px; box-shadow: 0 0 0 2px #fff; }
  canvas { display: block; width: 100%; border-radius: .4rem; background: ${css(PAPER)}; }
  output { font-variant-numeric: tabular-nums; }
  #words { display: flow-root; }
  #question { margin-top: 0; }
  #answer { scroll-margin: 5rem; }
  .spoken { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  [hidden] { display: none !important; }
`;

// A subclass has: static page, presets, verb, leap (steps of a press where nothing shall move) and budget (milliseconds
// of a frame for computing); build, once; restart; change and act, for its dials and buttons; advance and `steps`;
// measure, which writes the numbers; show, which draws, too; and describe.
export class Playground extends HTMLElement {
  connectedCallback() {
    if (this.shadowRoot) return; // it was only moved
    const { page, presets } = this.constructor;
    const replays = Object.entries(presets).map(
      ([key, { name }]) => `<button class="act" type="button" data-preset="${key}">${name}</button>`,
    );
    this.attachShadow({ mode: "open" }).innerHTML = `<style>${STYLE}</style>
      <div class="row" role="group" aria-label="Experiments">${replays.join("")}</div>
      <div id="words"><p id="question"></p><p id="answer" hidden></p></div>${page}
      <div id="spoken" class="spoken" role="status"></div>`;
    this.parts = Object.fromEntries([...this.shadowRoot.querySelectorAll("[id]")].map((part) => [part.id, part]));
    this.shadowRoot.addEventListener("input", ({ target }) => this.turned(target));
    this.shadowRoot.addEventListener("click", ({ target }) => this.pressed(target.closest("button.act")));
    new IntersectionObserver((entries) => {
      this.seen = entries.at(-1).isIntersecting;
    }).observe(this);
    this.build();
    this.choose(Object.keys(presets)[0]);
    this.refresh();
  }

  disconnectedCallback() {
    this.running = false;
  }

  // An experiment: its dials, its start, its question; the answer comes after so many steps.
  choose(key) {
    this.running = false;
    this.preset = this.constructor.presets[key];
    this.parts.words.style.minHeight = "";
    for (const [dial, value] of Object.entries(this.preset.dials)) this.parts[dial].value = value;
    this.restart(this.preset.seed);
  }

  // The reader's own experiment, of which we know no answer. The words of the other leave their place empty, so that
  // nothing moves under a finger.
  leave() {
    const { words } = this.parts;
    if (this.preset) words.style.minHeight = `${words.offsetHeight}px`;
    this.preset = null;
    this.ask();
  }

  // A dial; those of what is looked at change no experiment.
  turned(dial) {
    if (!dial) return;
    if (!["judge", "watch"].includes(dial.id)) this.leave();
    this.change(dial.id);
    this.refresh();
  }

  pressed(button) {
    if (!button) return;
    if (button.id === "run") this.run();
    if (button.id === "once") this.run(1);
    this.refresh(button.dataset.preset ? this.choose(button.dataset.preset) : this.act(button.id));
  }

  // The next frame in which somebody may look
  async frame() {
    do await new Promise(requestAnimationFrame);
    while (!this.seen && this.isConnected);
  }

  // So many steps, or until an experiment's answer, or until it is pressed again. Out of sight it rests.
  async run(count) {
    if (this.loop) {
      this.running = false;
      return;
    }
    this.running = this.loop = true;
    this.parts.run.textContent = "Pause";
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const last = this.steps + (count ?? (still ? this.constructor.leap : Infinity));
    const { preset } = this, due = preset && this.steps < preset.after ? preset.after : Infinity;
    const goal = () => (this.preset === preset ? Math.min(last, due) : last);
    while (this.running && this.steps < goal()) {
      await this.frame();
      if (this.running) this.work(still ? 10 : this.constructor.budget, goal());
      if (still) this.measure();
      else this.show();
    }
    this.running = this.loop = false;
    this.parts.run.textContent = this.constructor.verb;
    this.refresh();
    if (this.preset === preset && this.steps === due) this.parts.answer.scrollIntoView({ block: "nearest" });
  }

  work(milliseconds, goal) {
    const end = performance.now() + milliseconds;
    do this.advance();
    while (this.steps < goal && performance.now() < end);
  }

  // The experiment's question and, when it is due, the answer
  ask() {
    const { preset, parts: { question, answer } } = this;
    for (const button of this.shadowRoot.querySelectorAll("[data-preset]"))
      button.setAttribute("aria-pressed", this.constructor.presets[button.dataset.preset] === preset);
    question.textContent = preset ? preset.question : "Your own experiment: what do you expect?";
    answer.hidden = !(preset && this.steps >= preset.after);
    answer.textContent = answer.hidden ? "" : `After ${preset.after} steps. ${preset.answer}`;
  }

  // Everything that is seen and, at rest, what is said: news, or how things are.
  refresh(news) {
    const { answer, spoken } = this.parts;
    this.ask();
    this.show();
    if (this.running) return;
    const text = news ?? `${this.describe()} ${answer.textContent}`;
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => {
      if (!this.running) spoken.textContent = text;
    }, 400);
  }
}

// Curves are arrays by step. A new one; of those before it, the last four that have steps stay.
export const nextCurve = (curves) => [...curves.filter(({ length }) => length > 1).slice(-4), []];

// Curves over steps: the present one dark, those before it pale, where they fit between `from` and `to`, and a dashed
// line that means something.
export function plot(canvas, curves, { log, line, from, to }) {
  const pen = canvas.getContext("2d"), { width, height } = canvas, pad = 4;
  const scale = log ? Math.log : (value) => value;
  const most = Math.max(300, curves.at(-1).length - 1);
  const across = (step) => pad + ((width - 2 * pad) * step) / most;
  const up = (value) => height - pad - ((height - 2 * pad) * (scale(value) - scale(from))) / (scale(to) - scale(from));
  pen.clearRect(0, 0, width, height);
  const draw = (curve, color) => {
    pen.strokeStyle = color;
    pen.beginPath();
    curve.forEach((value, step) => {
      pen.lineTo(across(step), up(value));
    });
    pen.stroke();
  };
  pen.lineWidth = (2 * width) / (canvas.clientWidth || width); // two pixels of the screen
  if (line) {
    pen.setLineDash([8, 8]);
    draw(Array(most + 1).fill(line), "#8c8c8c");
    pen.setLineDash([]);
  }
  for (const curve of curves.slice(0, -1))
    if (curve.every((value) => value >= from && value <= to)) draw(curve, SAND);
  draw(curves.at(-1), INK);
}
