// The pages' widgets, in plain JavaScript. First the maths, which tests/test_widgets.py compares with Python's; then
// a few helpers; then a function for each widget. Without JavaScript the page shows a picture in a widget's place.

"use strict";

// ---- the maths

const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const sum = (xs) => xs.reduce((a, b) => a + b, 0);

const maths = {
  // One sample's term of PPO's objective: min(r A, clip(r, 1 - eps, 1 + eps) A).
  clipped(ratio, adv, eps) {
    return Math.min(ratio * adv, clamp(ratio, 1 - eps, 1 + eps) * adv);
  },

  // Its derivative with respect to the ratio.
  clippedSlope(ratio, adv, eps) {
    return (adv > 0 && ratio > 1 + eps) || (adv < 0 && ratio < 1 - eps) ? 0 : adv;
  },

  // Generalized advantage estimates of one trajectory; v has one value more than there are rewards.
  gae(rewards, v, gamma, lam, terminated) {
    const last = rewards.length - 1;
    const delta = rewards.map((r, t) => r + (t === last && terminated ? 0 : gamma * v[t + 1]) - v[t]);
    const adv = [...delta];
    for (let t = last - 1; t >= 0; t--) adv[t] = delta[t] + gamma * lam * adv[t + 1];
    return { delta, adv };
  },

  // log of the density of a = tanh(u) where u is normal: log N(u) - log(1 - tanh(u)^2), safe for large u.
  squashedLogDensity(u, mu, sigma) {
    const normal = -0.5 * ((u - mu) / sigma) ** 2 - Math.log(sigma) - 0.5 * Math.log(2 * Math.PI);
    const softplus = Math.max(-2 * u, 0) + Math.log1p(Math.exp(-Math.abs(2 * u)));
    return normal - 2 * (Math.log(2) - u - softplus);
  },

  // The action values of the widget about the temperature: a high hill and a lower one.
  hills(a) {
    return Math.exp(-(((a - 0.5) / 0.35) ** 2)) + 0.7 * Math.exp(-(((a + 0.5) / 0.4) ** 2));
  },

  // Means over the squashed Gaussian: of Q, and of -log pi, the entropy; by sums over z = (u - mu) / sigma.
  softObjective(mu, sigma, alpha) {
    let q = 0, entropy = 0, total = 0;
    for (let z = -5; z <= 5.001; z += 0.1) {
      const weight = Math.exp(-0.5 * z * z), u = mu + sigma * z;
      q += weight * maths.hills(Math.tanh(u));
      entropy -= weight * maths.squashedLogDensity(u, mu, sigma);
      total += weight;
    }
    q /= total;
    entropy /= total;
    return { q, entropy, objective: q + alpha * entropy };
  },

  // The mu and sigma, among those that the sliders have, with the largest E[Q] + alpha * entropy.
  bestSquashed(alpha) {
    let best = { objective: -Infinity };
    for (let i = -40; i <= 40; i++) {
      for (let j = 1; j <= 40; j++) {
        const found = maths.softObjective(i / 20, j / 20, alpha);
        if (found.objective > best.objective) best = { mu: i / 20, sigma: j / 20, ...found };
      }
    }
    return best;
  },

  // A gridworld. Letters: . free, # wall, G goal (+1), P pit (-1); both end the episode.
  world: ["....G", ".#..P", ".#...", "....."],
  moves: [[-1, 0], [0, 1], [1, 0], [0, -1]], // up, right, down, left

  // Where a move leads: into a wall or off the grid, nowhere.
  target(row, column, move) {
    const [i, j] = [row + move[0], column + move[1]];
    return (maths.world[i]?.[j] ?? "#") === "#" ? [row, column] : [i, j];
  },

  // The value of an action: with probability `slip` the move goes to one of the two sides instead.
  actionValue(v, row, column, action, gamma, slip) {
    const outcomes = [[action, 1 - slip], [(action + 1) % 4, slip / 2], [(action + 3) % 4, slip / 2]];
    return sum(outcomes.map(([move, probability]) => {
      const [i, j] = maths.target(row, column, maths.moves[move]);
      const reward = { G: 1, P: -1 }[maths.world[i][j]] ?? 0;
      return probability * (reward + gamma * v[i][j]);
    }));
  },

  // One sweep of value iteration: every free cell gets the value of its best action.
  sweep(v, gamma, slip) {
    return v.map((line, i) => line.map((old, j) => maths.world[i][j] !== "." ? 0
      : Math.max(...[0, 1, 2, 3].map((action) => maths.actionValue(v, i, j, action, gamma, slip)))));
  },

  // gamma-discounted rewards-to-go of an episode with a reward of 1 in each of its steps.
  rewardsToGo(steps, gamma) {
    return Array.from({ length: steps }, (_, t) => (1 - gamma ** (steps - t)) / (1 - gamma));
  },
};

// ---- helpers

const number = (x, digits = 2) => (Math.abs(x) < 0.5 / 10 ** digits ? 0 : x).toFixed(digits).replace("-", "\u2212");

// An HTML element with its attributes and children.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

let count = 0; // of controls, for their ids

// A labelled slider that shows its value; `changed` is called when it moves.
function slider(label, min, max, step, value, changed) {
  const id = `widget-control-${count++}`;
  const digits = `${step}`.split(".")[1]?.length ?? 0;
  const shown = element("output", {}, number(value, digits));
  const input = element("input", { type: "range", id, min, max, step, value });
  const show = () => {
    shown.textContent = number(+input.value, digits);
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.addEventListener("input", () => { show(); changed(); });
  show();
  return {
    row: element("div", { class: "widget-slider" }, element("label", { for: id }, `${label} = `, shown), input),
    get value() { return +input.value; },
    set value(x) { input.value = x; show(); },
    set max(x) { input.max = x; },
  };
}

// Radio buttons with a legend; choices: [value, text] pairs.
function choice(legend, choices, changed) {
  const name = `widget-control-${count++}`;
  const inputs = choices.map(([value], i) => {
    const input = element("input", { type: "radio", name, value, onchange: changed });
    input.checked = i === 0;
    return input;
  });
  const labels = choices.map(([, text], i) => element("label", {}, inputs[i], ` ${text}`));
  return {
    row: element("fieldset", { class: "widget-choice" }, element("legend", {}, legend), ...labels),
    get value() { return inputs.find((input) => input.checked).value; },
  };
}

const button = (text, clicked) => element("button", { type: "button", onclick: clicked }, text);

// A drawing of 360 by `height` units, in the classes of pictures.css.
class Drawing {
  constructor(height) {
    this.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.svg.setAttribute("viewBox", `0 0 360 ${height}`);
    this.svg.setAttribute("class", "picture");
    this.svg.setAttribute("aria-hidden", "true"); // the text below the drawing says what it shows
    this.parts = [];
  }
  line(points, kind = "line") {
    const places = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
    this.parts.push(`<polyline points="${places}" class="${kind}"/>`);
  }
  box(x, y, width, height, kind = "box", radius = 2) {
    this.parts.push(`<rect x="${x}" y="${y}" width="${width}" height="${height}" rx="${radius}" class="${kind}"/>`);
  }
  circle(x, y, radius, kind) {
    this.parts.push(`<circle cx="${x}" cy="${y}" r="${radius}" class="${kind}"/>`);
  }
  text(x, y, words, kind = "", anchor = "middle") {
    this.parts.push(`<text x="${x}" y="${y}" text-anchor="${anchor}" class="${kind}">${words}</text>`);
  }
  // Replace what was drawn before.
  show() {
    this.svg.innerHTML = this.parts.join("");
    this.parts = [];
  }
}

// Two functions that place data in a panel, and its axes drawn.
function panel(drawing, left, top, width, height, [x0, x1], [y0, y1]) {
  drawing.line([[left, top], [left, top + height], [left + width, top + height]], "line thin");
  return {
    x: (x) => left + ((x - x0) / (x1 - x0)) * width,
    y: (y) => top + ((y1 - y) / (y1 - y0)) * height,
  };
}

const range = (count, from, to) => Array.from({ length: count }, (_, i) => from + ((to - from) * i) / (count - 1));

// ---- the widgets: each gets the element to fill, and its data where it has some

const widgets = {
  "ppo-clip"(root) {
    const drawing = new Drawing(236), words = element("p", { role: "status" });
    const adv = choice("Advantage", [["1", "A = +1: better than expected"], ["-1", "A = \u22121: worse"]], draw);
    const ratio = slider("ratio r", 0, 2, 0.01, 1, draw);
    const eps = slider("clip_ratio \u03b5", 0.05, 0.5, 0.05, 0.2, draw);

    function draw() {
      const [r, a, e] = [ratio.value, +adv.value, eps.value];
      const value = maths.clipped(r, a, e), slope = maths.clippedSlope(r, a, e);
      const at = panel(drawing, 40, 14, 304, 164, [0, 2], a > 0 ? [0, 2] : [-2, 0]);
      const curve = (f, kind) => drawing.line(range(201, 0, 2).map((x) => [at.x(x), at.y(f(x))]), kind);
      for (const edge of [1 - e, 1 + e]) drawing.line([[at.x(edge), 14], [at.x(edge), 178]], "line thin dotted");
      drawing.text(at.x(1 - e) - 2, 195, "1\u2212\u03b5", "note", "end");
      drawing.text(at.x(1), 195, "1", "note");
      drawing.text(at.x(1 + e) + 2, 195, "1+\u03b5", "note", "start");
      for (const y of [0, a, 2 * a]) drawing.text(33, at.y(y) + 4, number(y, 0), "note", "end");
      curve((x) => x * a, "line dashed");
      curve((x) => maths.clipped(x, a, e), "line blue thick");
      drawing.circle(at.x(r), at.y(value), 6, "dot red");
      drawing.text(192, 214, "ratio r");
      drawing.text(192, 231, "blue: the objective; dashed: without the clip", "note");
      drawing.show();
      const push = slope > 0 ? "the gradient raises the action\u2019s probability"
        : slope < 0 ? "the gradient lowers the action\u2019s probability"
        : "the clip is active, and this sample has no gradient";
      words.textContent = `Objective ${number(value)}, slope ${number(slope)}: ${push}.`;
    }
    root.append(adv.row, ratio.row, eps.row, drawing.svg, words);
    draw();
  },

  gae(root) {
    const rewards = [0, 1, 0, -1, 0, 2], v = [1.0, 1.6, 0.4, 0.8, 1.9, 1.2, 1.0];
    const drawing = new Drawing(206), words = element("p", { role: "status" });
    const table = element("table", { class: "widget-table" });
    const gamma = slider("discount \u03b3", 0, 1, 0.01, 0.99, draw);
    const lam = slider("\u03bb", 0, 1, 0.01, 0.95, draw);
    const end = choice("The last step", [["terminated", "terminated"], ["truncated", "truncated"]], draw);

    function draw() {
      const terminated = end.value === "terminated";
      const { delta, adv } = maths.gae(rewards, v, gamma.value, lam.value, terminated);
      const at = panel(drawing, 36, 10, 312, 160, [0, 6], [-2, 2]);
      for (const y of [-2, -1, 0, 1, 2]) drawing.text(29, at.y(y) + 4, number(y, 0), "note", "end");
      drawing.line([[36, at.y(0)], [348, at.y(0)]], "line thin dotted");
      rewards.forEach((_, t) => {
        const bar = (value, from, kind) => drawing.box(at.x(t + from), Math.min(at.y(value), at.y(0)), 18,
          Math.abs(at.y(value) - at.y(0)), kind, 0);
        bar(delta[t], 0.1, "box");
        bar(adv[t], 0.5, "box blue");
        drawing.text(at.x(t + 0.5), 186, `t = ${t}`, "note");
      });
      drawing.text(180, 202, "gray: \u03b4, the one-step error; blue: A, the estimate", "note");
      drawing.show();
      const row = (name, xs, digits) => element("tr", {}, element("th", { scope: "row" }, name),
        ...xs.map((x) => element("td", {}, number(x, digits))));
      const head = element("tr", {}, element("th", { scope: "col" }, "t"),
        ...rewards.map((_, t) => element("th", { scope: "col" }, `${t}`)));
      table.replaceChildren(element("thead", {}, head), element("tbody", {}, row("r", rewards, 0),
        row("V(s)", v.slice(0, 6), 1), row("\u03b4", delta, 2), row("A", adv, 2)));
      const after = terminated ? "the next state is terminal, and counts 0" : `the next state counts V = ${number(v[6], 1)}`;
      const weight = number(gamma.value * lam.value);
      words.textContent = `An error one step later weighs \u03b3\u03bb = ${weight}, two steps later its square. `
        + `After the last step ${after}.`;
    }
    root.append(gamma.row, lam.row, end.row, drawing.svg, element("div", { class: "widget-scroll" }, table), words);
    draw();
  },

  "squashed-gaussian"(root) {
    const drawing = new Drawing(268), words = element("p", { role: "status" });
    const mu = slider("mean \u03bc", -2, 2, 0.05, 0, draw);
    const sigma = slider("standard deviation \u03c3", 0.05, 2, 0.05, 0.7, draw);
    const alpha = slider("temperature \u03b1", 0.02, 2, 0.02, 0.2, draw);
    const best = button("Maximize over \u03bc and \u03c3", () => {
      const found = maths.bestSquashed(alpha.value);
      [mu.value, sigma.value] = [found.mu, found.sigma];
      draw();
    });

    function draw() {
      const actions = range(199, -0.99, 0.99), q = actions.map(maths.hills);
      const density = actions.map((a) => Math.exp(maths.squashedLogDensity(Math.atanh(a), mu.value, sigma.value)));
      const soft = q.map((x) => Math.exp(x / alpha.value)), area = sum(soft) * (1.98 / 198);
      const draws = (at, ys, top, kind) =>
        drawing.line(actions.map((a, i) => [at.x(a), at.y(Math.min(ys[i], top))]), kind);
      const upper = panel(drawing, 30, 18, 316, 62, [-1, 1], [0, 1.2]);
      drawing.text(188, 13, "Q(s, a)", "head-text");
      draws(upper, q, 1.2, "line");
      const lower = panel(drawing, 30, 106, 316, 110, [-1, 1], [0, 4]);
      drawing.text(188, 100, "density over actions", "head-text");
      draws(lower, soft.map((x) => x / area), 4, "line red dashed");
      draws(lower, density, 4, "line blue thick");
      for (const y of [0, 2, 4]) drawing.text(23, lower.y(y) + 4, `${y}`, "note", "end");
      for (const a of [-1, 0, 1]) drawing.text(lower.x(a), 232, number(a, 0), "note");
      drawing.text(188, 247, "action a = tanh(u)", "");
      drawing.text(188, 263, "blue: the policy; red: exp(Q/\u03b1), scaled to area 1", "note");
      drawing.show();
      const found = maths.softObjective(mu.value, sigma.value, alpha.value);
      words.textContent = `E[Q] = ${number(found.q)}, entropy = ${number(found.entropy)}, `
        + `E[Q] + \u03b1 \u00b7 entropy = ${number(found.objective)}.`;
    }
    root.append(mu.row, sigma.row, alpha.row, best, drawing.svg, words);
    draw();
  },

  "value-iteration"(root) {
    const arrows = ["\u2191", "\u2192", "\u2193", "\u2190"], directions = ["up", "right", "down", "left"];
    const words = element("p", { role: "status" });
    const table = element("table", { class: "widget-grid" }, element("caption", {}, "Values, and the best move"));
    const gamma = slider("discount \u03b3", 0.5, 0.99, 0.01, 0.9, restart);
    const slip = slider("probability of slipping", 0, 0.6, 0.1, 0.2, restart);
    const zeros = () => maths.world.map((line) => [...line].map(() => 0));
    let v, sweeps, change;

    function restart() { [v, sweeps, change] = [zeros(), 0, Infinity]; draw(); }
    function sweep() {
      const next = maths.sweep(v, gamma.value, slip.value);
      change = Math.max(...next.flatMap((line, i) => line.map((x, j) => Math.abs(x - v[i][j]))));
      [v, sweeps] = [next, sweeps + 1];
    }
    function cell(i, j) {
      const kind = maths.world[i][j];
      if (kind === "#") return element("td", { class: "wall", "aria-label": "wall" });
      if (kind === "G") return element("td", { class: "goal" }, "goal +1");
      if (kind === "P") return element("td", { class: "pit" }, "pit \u22121");
      const values = [0, 1, 2, 3].map((a) => maths.actionValue(v, i, j, a, gamma.value, slip.value));
      const best = Math.max(...values) === Math.min(...values) ? -1 : values.indexOf(Math.max(...values));
      const shown = element("td", {}, number(v[i][j]));
      const arrow = () => element("span", { role: "img", "aria-label": directions[best] }, arrows[best]);
      shown.append(element("br"), best < 0 ? "\u00b7" : arrow());
      shown.style.setProperty("--strength", `${Math.round(Math.abs(v[i][j]) * 60)}%`);
      shown.className = v[i][j] < 0 ? "low" : "high";
      return shown;
    }
    function draw() {
      const rows = maths.world.map((line, i) => element("tr", {}, ...[...line].map((_, j) => cell(i, j))));
      table.tBodies[0]?.remove();
      table.append(element("tbody", {}, ...rows));
      words.textContent = sweeps === 0 ? "All values are 0. Press One sweep."
        : `Sweep ${sweeps}: the largest change is ${number(change, 4)}.`;
    }
    const once = button("One sweep", () => { sweep(); draw(); });
    const all = button("Until nothing changes", () => { do sweep(); while (change > 1e-6); draw(); });
    const buttons = element("div", { class: "widget-buttons" }, once, all, button("Start again", restart));
    root.append(gamma.row, slip.row, buttons, table, words);
    restart();
  },

  cartpole(root, data) {
    const drawing = new Drawing(322), words = element("p", { role: "status" });
    const episode = choice("Policy", data.episodes.map((e, i) => [`${i}`, e.name]), changeEpisode);
    const time = slider("step t", 0, 10, 1, 0, () => { stop(); draw(); });
    const play = button("Play", () => (timer === null ? start() : stop()));
    const length = () => data.episodes[+episode.value].x.length;
    let timer = null, began = 0;

    function start() {
      if (time.value >= length() - 1) time.value = 0;
      began = performance.now() - time.value * 20; // 50 steps a second, as the simulation has
      timer = requestAnimationFrame(step);
      play.textContent = "Pause";
      words.setAttribute("aria-live", "off"); // no reading aloud of every frame
    }
    function step(now) {
      time.value = Math.floor(Math.max(now - began, 0) / 20);
      draw();
      if (time.value >= length() - 1) stop();
      else timer = requestAnimationFrame(step);
    }
    function stop() {
      cancelAnimationFrame(timer);
      timer = null;
      play.textContent = "Play";
      words.removeAttribute("aria-live");
    }
    function changeEpisode() {
      stop();
      [time.max, time.value] = [length() - 1, 0];
      draw();
    }

    function draw() {
      const e = data.episodes[+episode.value], t = time.value, x = 180 + 70 * e.x[t], angle = e.theta[t];
      drawing.line([[12, 128], [348, 128]], "line");
      drawing.box(x - 24, 108, 48, 20, "box", 3);
      drawing.line([[x, 110], [x + 85 * Math.sin(angle), 110 - 85 * Math.cos(angle)]], "line red thick");
      drawing.circle(x, 110, 4, "dot");
      const push = e.action[t] ? 1 : -1;
      const [tail, barb, tip] = [28, 38, 44].map((far) => x + far * push);
      drawing.line([[tail, 118], [tip, 118], [barb, 113], [tip, 118], [barb, 123]], "line blue");
      const togo = maths.rewardsToGo(length(), data.gamma), top = 10 * Math.ceil(Math.max(...e.value, ...togo) / 10);
      const at = panel(drawing, 40, 154, 306, 116, [0, length() - 1], [0, top]);
      const curve = (ys, kind) => drawing.line(ys.map((y, i) => [at.x(i), at.y(y)]), kind);
      curve(togo, "line dashed");
      curve(e.value, "line blue");
      drawing.line([[at.x(t), 154], [at.x(t), 270]], "line red thin");
      drawing.circle(at.x(t), at.y(e.value[t]), 5, "dot red");
      for (const y of [0, top / 2, top]) drawing.text(33, at.y(y) + 4, number(y, 0), "note", "end");
      drawing.text(40, 286, "0", "note");
      drawing.text(346, 286, `${length() - 1}`, "note", "end");
      drawing.text(193, 286, "step t", "note");
      drawing.text(193, 301, "blue: the critic\u2019s value V(s)", "blue");
      drawing.text(193, 317, `dashed: discounted reward-to-go, \u03b3 = ${data.gamma}`, "note");
      drawing.show();
      words.textContent = `Step ${t}: cart at ${number(e.x[t])} m, pole at ${number((angle * 180) / Math.PI, 1)}\u00b0, `
        + `pushes ${push > 0 ? "right" : "left"}; V = ${number(e.value[t], 1)}, reward-to-go ${number(togo[t], 1)}. ${e.end}`;
    }
    root.append(episode.row, element("div", { class: "widget-buttons" }, play), time.row, drawing.svg, words);
    time.max = length() - 1;
    draw();
  },
};

// ---- in the page

for (const root of document.querySelectorAll("[data-widget]")) {
  const data = root.querySelector("script[type='application/json']");
  const live = element("div", { class: "widget-live", role: "group", "aria-label": root.dataset.label });
  widgets[root.dataset.widget](live, data && JSON.parse(data.textContent));
  root.querySelector(".widget-still").replaceWith(live);
}

// The landing page's moving pictures stop and start again by a button.
for (const toggle of document.querySelectorAll("button[data-pause]")) {
  const pictures = [...document.querySelectorAll("img[data-still]")].map((image) => [image, image.src]);
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    const pause = toggle.getAttribute("aria-pressed") !== "true";
    toggle.setAttribute("aria-pressed", pause);
    for (const [image, moving] of pictures) image.src = pause ? image.dataset.still : moving;
  });
}

window.spinupMaths = maths; // for the tests, and for the console
