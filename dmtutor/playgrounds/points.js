// <dm-points>: chapter 2, "Moving points". Sixteen points descend on MMD² to a cloud, or are moved by hand.
import { clouds, draw, worth } from "./clouds.js";
import { fourier, gaussian, gradient, linear, mmd2 } from "./mmd.js";
import { sgd } from "./optim.js";
import { BLUE, INK, nextCurve, ORANGE, PAPER, Playground, plot } from "./playground.js";
import { choose, generator, normal } from "./randomness.js";

const N = 200, M = 16; // points of the cloud, and those that stand in for them
const REACH = 3.6; // of the picture, either way
const EDGE = 3.45; // where points are kept, so that they are seen whole
const SLACK = 0.08; // about four pixels of the screen: what moves a point less is a tap
const GRID = 49; // places of the witness along a side
const SIZE = 600; // pixels of the picture
const TOP = 0.12; // where colours end, unless the witness goes further
// Pixels of the picture, from its left and from its top
const across = (x) => (SIZE * (x / REACH + 1)) / 2;
const down = (y) => (SIZE * (1 - y / REACH)) / 2;
const clamp = (value) => Math.max(-EDGE, Math.min(EDGE, value));

class Points extends Playground {
  static verb = "Descend";
  static leap = 300;
  static budget = 0; // one step a frame, to be watched

  static presets = {
    moons: {
      name: "Moons",
      dials: { cloud: "moons", kernel: "one", bandwidth: -0.3, judge: -0.3 },
      seed: 1,
      after: 300,
      question: "Which of the sixteen points will go farthest? Choose one, then descend.",
      answer: "Farthest went the rightmost of the crowd of four in the deepest orange, down into the lower moon, then two "
        + "others of the crowd. Blue draws a point, orange pushes it away. But the colours change as all move: one "
        + "point ended where the first picture is deeper orange than where it began. Little colour is left, and to the "
        + "judge h = 0.5 the sixteen are worth about a hundred.",
    },
    narrow: {
      name: "Narrow kernel",
      dials: { cloud: "clusters", kernel: "one", bandwidth: -0.3, judge: -0.3 },
      seed: 1,
      after: 300,
      question: "Shares of 50, 30 and 20 % would be 8, 5 and 3 points, but the clusters got 10, 4 and 2, counted by the "
        + "nearest centre. Will points cross the gaps?",
      answer: "Here none did: 10, 4 and 2 as before. One began between the clusters on the right, a little nearer to the "
        + "lower, and went there; one of the ten was pushed out into the empty space. With h = 0.5 a cluster is hardly "
        + "felt from the centre of another, but between them points choose. From 35 of the first 60 other starts "
        + "(New points) the counts changed.",
    },
    wide: {
      name: "A wide one beside it",
      dials: { cloud: "clusters", kernel: "two", bandwidth: -0.3, judge: -0.3 },
      seed: 1,
      after: 300,
      question: "The same start, and a second kernel beside the first, four times as wide. And now?",
      answer: "Now two crossed: 8, 5 and 3, and to the judge h = 0.5 the sixteen are worth about twice what the narrow "
        + "kernel made of them.",
    },
    linear: {
      name: "Means alone",
      dials: { cloud: "moons", kernel: "linear", judge: -0.3 },
      seed: 1,
      after: 300,
      question: "The linear kernel sees means. What shape will the points take?",
      answer: "The one they had: all sixteen moved by the same vector. The means agree, so MMD² is zero, up to "
        + "rounding. To the judge h = 0.5 they are worth 13, at the start 16. To the judge h = 2, who asks for less "
        + "detail, 72, at the start 25.",
    },
    wave: {
      name: "Two features",
      dials: { cloud: "moons", kernel: "features", features: 1, judge: -0.3 },
      seed: 1,
      after: 300,
      question: "One random frequency makes one cosine and one sine. The points begin on the moons. Will MMD² fall to "
        + "zero? Will they stay on the moons?",
      answer: "MMD² is zero, up to rounding, but four left the moons, one of them far, to the lower left. Two features "
        + "are one wave, and all that is matched is the mean of that wave. To the judge h = 0.5 the points are worth "
        + "16, as at the start; to the judge h = 2, 34, at the start 25.",
    },
    judge: {
      name: "A closer judge",
      dials: { cloud: "moons", kernel: "one", bandwidth: -0.3, judge: -1 },
      seed: 1,
      after: 300,
      question: "Moved by h = 0.5, as the moons above, but judged by a kernel five times as narrow. How many random "
        + "points will the sixteen be worth?",
      answer: "Nineteen, to the judge h = 0.1. To the judge h = 0.5 the same sixteen are worth about a hundred: who "
        + "asks for detail gets little of it from sixteen points.",
    },
  };

  static page = `
    <style>
      .half { display: flex; flex-wrap: wrap; gap: .5rem 1.2rem; }
      .half > * { flex: 1 1 17rem; min-width: 0; }
      #left { flex: 1 1 22rem; max-width: 27rem; }
      #stage { position: relative; overflow: hidden; }
      #stage button { position: absolute; width: 24px; height: 24px; margin: -12px; padding: 0; border: 0;
        border-radius: 50%; cursor: grab; background: radial-gradient(${INK} 0 22%, #fff 26% 30%, transparent 34%); }
      #stage button[aria-pressed=true] { touch-action: none;
        background: radial-gradient(#fff 0 18%, ${INK} 22% 42%, transparent 46%); }
      small { display: block; }
    </style>
    <div class="half">
      <div id="left">
        <div id="stage" role="group" aria-label="sixteen points" aria-describedby="how">
          <canvas id="map" width="${SIZE}" height="${SIZE}" role="img"></canvas></div>
        <div class="row"><button class="act" type="button" id="run">Descend</button>
          <button class="act" type="button" id="once">One step</button>
          <button class="act" type="button" id="again">New points</button></div>
        <p>After <output id="steps"></output> steps MMD² is <output id="value"></output>.<br>The judge says: these 16
          are worth <b><output id="worth"></output></b> random points.<output id="counts"></output></p>
        <small id="how">Drag a point (by touch: tap it first), or tap it and then its place. Keys: arrows move it, with
          Shift farther; Page Up and Page Down go to another.</small>
        <small>Blue: by this kernel the cloud outweighs the points. Orange: the points outweigh the cloud. Colours end
          at ±<output id="top"></output>. Lines: the ways of descent, each from a hollow square.</small>
      </div>
      <div>
        <div class="row"><label>Cloud <select id="cloud"><option>moons</option><option>rings</option>
          <option>clusters</option></select></label></div>
        <div class="row"><label>Kernel <select id="kernel"><option value="one">Gaussian</option>
          <option value="two">two Gaussians, h and 4h</option><option value="features">random features</option>
          <option value="linear">linear</option></select></label></div>
        <div class="row"><label id="ofBandwidth">Bandwidth h <input type="range" id="bandwidth" min="-1" max="0.6"
          step="0.1"><output id="bandwidthValue"></output></label>
          <label id="ofFeatures">Features, h = 0.5 <input type="range" id="features" min="1" max="6" step="1">
          <output id="featuresValue"></output></label></div>
        <div class="row"><label>Judge's h <input type="range" id="judge" min="-1" max="0.3" step="0.1">
          <output id="judgeValue"></output></label></div>
        <canvas id="curve" width="600" height="150" role="img"></canvas>
        <small>Worth over steps, from 1 to 1,000; dashed: 16. Pale: before, same cloud and judge.</small>
      </div>
    </div>`;

  build() {
    this.small = Object.assign(document.createElement("canvas"), { width: GRID, height: GRID });
    this.ways = Object.assign(document.createElement("canvas"), { width: SIZE, height: SIZE }).getContext("2d");
    this.ways.strokeStyle = INK;
    this.handles = Array.from({ length: M }, (_, i) => this.handle(i));
    this.parts.map.addEventListener("click", (event) => {
      if (this.selected == null) return;
      this.place(this.selected, ...this.position(event));
      this.select(null);
      this.refresh();
    });
    this.curves = [];
  }

  // A new cloud, and the first of its points as a start
  restart(seed) {
    const cloud = clouds[this.parts.cloud.value];
    if (this.cloud !== cloud) this.curves = []; // those of another cloud go
    this.cloud = cloud;
    this.random = generator(seed);
    this.T = draw(this.cloud, N, this.random);
    this.frequencies = Array.from({ length: 64 }, () => normal(this.random));
    this.begin(this.T.slice(0, 2 * M));
  }

  begin(start) {
    this.running = false;
    this.S = start;
    this.start = start.slice();
    this.ways.clearRect(0, 0, SIZE, SIZE);
    this.placed = Array(M).fill(true); // so its way begins here
    this.select(null);
    this.velocity = new Float64Array(2 * M);
    this.steps = 0;
    this.path = [];
    this.curves = nextCurve(this.curves);
    this.change();
  }

  // A dial: the kernel and the judge anew
  change(dial) {
    const { parts } = this, kind = parts.kernel.value;
    if (dial === "cloud") return this.restart(1);
    const [h, judge] = [parts.bandwidth, parts.judge].map((dial) => Number((10 ** dial.value).toPrecision(2)));
    const D = 2 ** parts.features.value;
    for (const [dial, value] of [["bandwidth", h], ["judge", judge], ["features", D]]) {
      parts[`${dial}Value`].textContent = value;
      parts[dial].setAttribute("aria-valuetext", value);
    }
    parts.ofBandwidth.hidden = kind === "features" || kind === "linear";
    parts.ofFeatures.hidden = kind !== "features";
    if (dial !== "judge") {
      const kernels = {
        one: () => gaussian(h),
        two: () => gaussian(h, 4 * h),
        features: () => fourier(this.frequencies.slice(0, D).map((xi) => xi / 0.5)), // h = 0.5
        linear,
      };
      this.kernel = kernels[kind]();
      this.velocity.fill(0);
      this.ofT = this.onGrid(this.kernel(this.T));
    }
    this.worth = worth(this.cloud, judge);
    if (this.judge !== judge) this.curves = [this.path.map(this.worth)]; // those before go
    this.judge = judge;
    this.keep();
  }

  keep() {
    this.curves.at(-1)[this.steps] = this.worth(this.S);
    if (this.steps % 5 === 0) this.path[this.steps] = this.S.slice(); // for another judge, to whom every fifth will do
  }

  act(name) {
    if (name !== "again") return;
    this.leave();
    const places = choose([...Array(N).keys()], M, this.random);
    this.begin(Float64Array.from(places.flatMap((i) => [this.T[2 * i], this.T[2 * i + 1]])));
  }

  // `descend` of chapter 2, one step. A point that is held stays, and none leaves the picture.
  advance() {
    const { S, velocity, ways } = this, slopes = gradient(this.T, S, this.kernel), before = S.slice();
    if (this.held != null) for (const part of [slopes, velocity]) part.fill(0, 2 * this.held, 2 * this.held + 2);
    sgd(S, slopes, velocity, { lr: 0.25 * M, momentum: 0.9 });
    for (let i = 0; i < S.length; i++) S[i] = clamp(S[i]);
    ways.beginPath();
    for (let i = 0; i < M; i++) {
      if (i === this.held) continue;
      const x = across(before[2 * i]), y = down(before[2 * i + 1]);
      if (this.placed[i]) ways.strokeRect(x - 4, y - 4, 8, 8);
      this.placed[i] = false;
      ways.moveTo(x, y);
      ways.lineTo(across(S[2 * i]), down(S[2 * i + 1]));
    }
    ways.stroke();
    this.steps++;
    this.keep();
  }

  onGrid(f) {
    const values = new Float64Array(GRID ** 2), at = (i) => ((2 * i) / (GRID - 1) - 1) * REACH;
    for (let i = 0; i < GRID ** 2; i++) values[i] = f(at(i % GRID), -at(Math.floor(i / GRID)))[0];
    return values;
  }

  show() {
    const { parts, S } = this, pen = parts.map.getContext("2d"), picture = new ImageData(GRID, GRID);
    const ofS = this.onGrid(this.kernel(S)), witness = this.ofT.map((value, i) => value - ofS[i]);
    const top = Math.max(parts.kernel.value === "linear" ? 1e-3 : TOP, ...witness.map(Math.abs));
    witness.forEach((value, i) => {
      const color = value > 0 ? BLUE : ORANGE, part = Math.abs(value) / top;
      for (let k = 0; k < 3; k++) picture.data[4 * i + k] = PAPER[k] + (color[k] - PAPER[k]) * part;
      picture.data[4 * i + 3] = 255;
    });
    this.small.getContext("2d").putImageData(picture, 0, 0);
    pen.drawImage(this.small, 0, 0, SIZE, SIZE);
    pen.fillStyle = INK;
    pen.globalAlpha = 0.5;
    for (let i = 0; i < 2 * N; i += 2) pen.fillRect(across(this.T[i]) - 2, down(this.T[i + 1]) - 2, 4, 4);
    pen.globalAlpha = 1;
    pen.drawImage(this.ways.canvas, 0, 0);
    this.handles.forEach((handle, i) => {
      handle.style.left = `${(100 * across(S[2 * i])) / SIZE}%`;
      handle.style.top = `${(100 * down(S[2 * i + 1])) / SIZE}%`;
    });
    parts.top.textContent = top.toPrecision(2);
    plot(parts.curve, this.curves, { log: true, line: M, from: 1, to: 1000 });
    this.measure();
  }

  measure() {
    const { parts, S } = this;
    parts.steps.textContent = this.steps;
    const value = mmd2(this.T, S, this.kernel);
    parts.value.textContent = value < 1e-12 ? 0 : value.toPrecision(3); // what is below is rounding
    parts.worth.textContent = this.worth(S).toFixed(0);
    parts.counts.textContent = this.cloud === clouds.clusters
      ? ` Nearest to the centres of the 50, 30 and 20 %: ${this.counts().join(", ")} points.` : "";
  }

  // Of the points, those nearest to each centre
  counts() {
    const { centres } = this.cloud, counts = Array(centres.length / 2).fill(0);
    for (let i = 0; i < 2 * M; i += 2) {
      const far = counts.map((_, k) => Math.hypot(this.S[i] - centres[2 * k], this.S[i + 1] - centres[2 * k + 1]));
      counts[far.indexOf(Math.min(...far))]++;
    }
    return counts;
  }

  describe() {
    const { parts } = this;
    this.handles.forEach((handle, i) => {
      const [x, y] = [this.S[2 * i], this.S[2 * i + 1]].map((value) => value.toFixed(1));
      handle.setAttribute("aria-label", `point ${i + 1} at ${x}, ${y}`);
    });
    const far = this.handles.map((_, i) => Math.hypot(...[0, 1].map((k) => this.S[2 * i + k] - this.start[2 * i + k])));
    parts.map.setAttribute("aria-label", `${N} points in ${parts.cloud.value}, sixteen that stand in for them, and the `
      + "witness between the two as colours."
      + (this.steps ? ` Farthest from its start is point ${1 + far.indexOf(Math.max(...far))}.` : ""));
    parts.curve.setAttribute("aria-label", `What the sixteen points are worth, over ${this.steps} steps.`);
    return `After ${this.steps} steps MMD squared is ${parts.value.textContent}; by the judge the sixteen points are `
      + `worth ${parts.worth.textContent} random ones.${parts.counts.textContent}`;
  }

  // One of the points: a button that is dragged, or tapped and then its place, or moved by keys.
  handle(i) {
    const handle = Object.assign(document.createElement("button"), { type: "button", tabIndex: i ? -1 : 0 });
    handle.setAttribute("aria-roledescription", "movable point");
    handle.setAttribute("aria-pressed", false);
    let grip, from; // where it was seized, and where it was
    handle.addEventListener("pointerdown", (event) => {
      this.dragged = false;
      if (event.pointerType === "touch" && this.selected !== i) return; // a swipe scrolls
      handle.setPointerCapture(event.pointerId);
      this.held = i;
      grip = this.position(event);
      from = this.S.slice(2 * i, 2 * i + 2);
    });
    handle.addEventListener("pointermove", (event) => {
      if (this.held !== i) return;
      const [x, y] = this.position(event).map((part, k) => part - grip[k]);
      this.dragged ||= Math.hypot(x, y) > SLACK;
      if (this.dragged) this.place(i, from[0] + x, from[1] + y);
    });
    handle.addEventListener("lostpointercapture", () => {
      this.held = null;
      if (this.dragged) this.refresh();
    });
    handle.addEventListener("click", () => {
      if (!this.dragged) this.select(this.selected === i ? null : i);
      this.dragged = false;
    });
    handle.addEventListener("keydown", (event) => this.key(i, event));
    return this.parts.stage.appendChild(handle);
  }

  position(event) {
    const box = this.parts.map.getBoundingClientRect();
    return [(2 * (event.clientX - box.left)) / box.width - 1, 1 - (2 * (event.clientY - box.top)) / box.height].map(
      (part) => part * REACH,
    );
  }

  place(i, x, y) {
    this.leave();
    this.placed[i] = true;
    this.S[2 * i] = clamp(x);
    this.S[2 * i + 1] = clamp(y);
    this.velocity.fill(0, 2 * i, 2 * i + 2);
    this.keep();
    this.show();
  }

  select(i) {
    this.selected = i;
    this.handles.forEach((handle, j) => {
      handle.setAttribute("aria-pressed", i === j);
    });
  }

  key(i, event) {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    const next = { PageUp: i - 1, PageDown: i + 1, Home: 0, End: M - 1 }[event.key];
    if (move) {
      const step = event.shiftKey ? 0.5 : 0.1;
      this.place(i, this.S[2 * i] + step * move[0], this.S[2 * i + 1] + step * move[1]);
      this.refresh();
    } else if (next != null) {
      const other = this.handles[(next + M) % M];
      for (const handle of this.handles) handle.tabIndex = handle === other ? 0 : -1;
      other.focus();
    } else return;
    event.preventDefault();
  }
}

customElements.define("dm-points", Points);
