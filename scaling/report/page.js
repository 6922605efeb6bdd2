// Lets a reader point at what the figures show, by mouse, touch and keyboard, and ask what a budget would buy. Without
// it the page says all that it has to say.
const NEAR = 22, NEAR_FINGER = 40;  // pixels from a point at which it is meant

function pointable(plot) {
  const marks = JSON.parse(plot.nextElementSibling.textContent).map(([x, y, run, link, title, own]) =>
    ({x, y, run, link, title, own}));
  if (!marks.length) return;
  const facts = JSON.parse($(plot.dataset.facts).textContent);
  const svg = plot.querySelector("svg"), box = svg.viewBox.baseVal;
  const ring = drawn("circle", svg, {r: 6, class: "ring"}), tip = plot.appendChild(made("div", undefined, "tip"));
  let stop = null, held = false;

  const place = mark => [mark.x / box.width * plot.clientWidth, mark.y / box.height * plot.clientHeight];
  const named = mark => mark.title || "run " + mark.run;
  function values(mark) {  // a mark with a title says its own facts alone
    const known = !mark.title && facts.runs[mark.run] || [];
    return facts.names.map((name, k) => [name, known[k]]).filter(pair => pair[1]).concat(mark.own);
  }
  function hide() {
    tip.hidden = true;
    ring.setAttribute("visibility", "hidden");
    held = false;
  }
  function show(i) {
    const mark = marks[i], list = made("dl");
    for (const [name, value] of values(mark)) list.append(made("dt", name), made("dd", value));
    tip.replaceChildren(made("b", named(mark)), list);
    if (mark.link) {
      const link = tip.appendChild(made("a", mark.run ? "its row in the table" : "the runs behind it"));
      link.href = mark.link;
      link.tabIndex = -1;  // the point itself leads there by Enter
    }
    tip.hidden = false;
    ring.setAttribute("cx", mark.x);
    ring.setAttribute("cy", mark.y);
    ring.setAttribute("visibility", "visible");
    const [x, y] = place(mark), top = plot.getBoundingClientRect().top + y - tip.offsetHeight - 12;
    tip.style.left = Math.max(0, Math.min(x - tip.offsetWidth / 2, plot.clientWidth - tip.offsetWidth)) + "px";
    tip.style.top = (top > 0 ? y - tip.offsetHeight - 12 : y + 12) + "px";
  }
  function nearest(event, reach) {
    const at = plot.getBoundingClientRect();
    let best = -1, least = reach;
    marks.forEach((mark, i) => {
      const [x, y] = place(mark), far = Math.hypot(x - event.clientX + at.left, y - event.clientY + at.top);
      if (far < least) [best, least] = [i, far];
    });
    return best;
  }

  // One stop for Tab in each figure; the arrow keys move it from point to point.
  function stand(i, focus) {
    const mark = marks[i], next = made("a", undefined, "stop");
    if (mark.link) next.href = mark.link; else next.setAttribute("role", "img");
    next.tabIndex = 0;
    next.style.left = 100 * mark.x / box.width + "%";
    next.style.top = 100 * mark.y / box.height + "%";
    const said = values(mark).map(pair => pair.join(" ")).join(", ");
    next.setAttribute("aria-label", `${named(mark)}: ${said}; point ${i + 1} of ${marks.length}, arrow keys for others`);
    next.addEventListener("focus", () => show(i));
    next.addEventListener("blur", () => { if (!held) hide(); });
    next.addEventListener("keydown", event => {
      const to = moved(i, event.key);
      if (to === undefined) return;
      event.preventDefault();
      stand(to, true);
    });
    const before = stop;
    stop = plot.insertBefore(next, tip);
    if (focus) next.focus({preventScroll: true});
    if (before) before.remove();
  }
  function moved(i, key) {
    if (key === "ArrowRight") return Math.min(i + 1, marks.length - 1);
    if (key === "ArrowLeft") return Math.max(i - 1, 0);
    if (key === "Home") return 0;
    if (key === "End") return marks.length - 1;
    if (key !== "ArrowUp" && key !== "ArrowDown") return undefined;
    const sign = key === "ArrowUp" ? -1 : 1;
    let best = i, least = Infinity;
    marks.forEach((mark, k) => {
      const away = sign * (mark.y - marks[i].y), far = away + 3 * Math.abs(mark.x - marks[i].x);
      if (away > 0.2 && far < least) [best, least] = [k, far];
    });
    return best;
  }

  plot.addEventListener("pointermove", event => {
    if (held || event.pointerType === "touch" || tip.contains(event.target)) return;
    const i = nearest(event, NEAR);
    if (i < 0) hide(); else show(i);
  });
  plot.addEventListener("pointerleave", () => { if (!held) hide(); });
  plot.addEventListener("click", event => {
    if (event.target.closest("a")) return;
    const i = nearest(event, event.pointerType === "touch" ? NEAR_FINGER : NEAR);
    hide();
    if (i < 0) return;
    stand(i, false);
    show(i);
    held = true;
  });
  document.addEventListener("keydown", event => { if (event.key === "Escape") hide(); });
  document.addEventListener("pointerdown", event => { if (!plot.contains(event.target)) hide(); });
  hide();
  stand(0, false);
}

// A cubic through the four neighbours on a grid of step 1, of logarithms where all are positive.
function between(rows, at) {
  const last = rows.length - 1, k = Math.max(1, Math.min(Math.floor(at), last - 2)), t = at - k;
  const four = [k - 1, k, k + 1, k + 2].map(i => rows[i]);
  if (!(at > -1e-6 && at < last + 1e-6) || four.some(row => !row)) return null;
  const weights = [-t * (t - 1) * (t - 2) / 6, (t + 1) * (t - 1) * (t - 2) / 2,
    -(t + 1) * t * (t - 2) / 2, (t + 1) * t * (t - 1) / 6];
  return four[0].map((_, j) => {
    const logs = four.every(row => row[j] > 0), sum = (total, w, i) => total + w * (logs ? Math.log(four[i][j]) : four[i][j]);
    return logs ? Math.exp(weights.reduce(sum, 0)) : weights.reduce(sum, 0);
  });
}

// What a budget would buy: read between the answers of the fits that Python put down on a grid.
function panel(know) {
  const asked = id => $(id).value.trim();
  const bracket = (v, at, words) => `${words(v[at])} [${words(v[at + 1])}, ${words(v[at + 2])}]`, loss = v => v.toFixed(3);

  function number(text) {  // 3e18, 2.5M, 1,000,000; NaN for what is none
    const found = /^([\d.,]+(?:e[+-]?\d+)?)\s*([kMBT]?)$/i.exec(text);
    const letter = found && found[2] && {k: 1e3, m: 1e6, b: 1e9, t: 1e12}[found[2].toLowerCase()];
    return found ? Number(found[1].replaceAll(",", "")) * (letter || 1) : NaN;
  }
  function row(list, name, text, value) {
    const cell = made("dd"), said = value === undefined ? cell : cell.appendChild(made("data"));
    said.textContent = text;
    if (value !== undefined) {
      said.value = value.join(" ");
      said.dataset.of = name;
    }
    list.append(made("dt", name), cell);
    return cell;
  }
  function budget() {
    if (asked("unit") === "flops") return number(asked("flops"));
    const chip = know.chips[Number(asked("chip"))];
    return number(asked("hours")) * 3600 * chip.flops * (chip.measured ? 1 : number(asked("used")) / 100);
  }
  function split(list, numbers, mark) {
    row(list, "N*" + mark, `${bracket(numbers, 0, short)} parameters`, numbers.slice(0, 3));
    row(list, "D*" + mark, `${bracket(numbers, 3, short)} tokens, ${short(numbers[3] / numbers[0])} for each parameter`,
      numbers.slice(3, 6));
    row(list, "L*" + mark, `${bracket(numbers, 6, loss)} nats per token`, numbers.slice(6, 9));
  }
  function scarce(list, warn, convention, law, flops, wanted) {
    const unique = number(asked("unique")), repeated = know.repeated;
    if (!(unique > 0)) return warn("unique tokens: a number above 0, such as 2e9 or 500M, or nothing");
    if (unique >= wanted) return row(list, "data", `${short(unique)} unique tokens are enough: none is seen twice`);
    let least = 0;  // the budget that one pass over them is the best split of
    law.numbers.forEach((known, k) => { if (known && known[3] <= unique) least = Math.exp(convention.start + k * convention.step); });
    const once = least ? `; one pass is the best split of about ${power(least)} FLOPs` : "";
    warn(`The best split asks for ${short(wanted / unique)} passes over ${short(unique)} unique tokens. The numbers below ` +
      `take every token as fresh, and the loss will be higher${once}.`);
    if (!repeated || repeated.params !== convention.params)
      return warn("This study has no law of repeated data, so it cannot say by how much.");
    const found = repeatedAnswer(repeated, know.level, flops, unique);
    if (!found) return warn(`The ${repeated.law} law has no best split there.`);
    if (wanted / unique > repeated.passes)
      warn(`The runs of its fit saw their tokens ${short(repeated.passes)} times at most: beyond that it extrapolates.`);
    split(list, found, ", repeated");
    row(list, "passes", `${short(found[3] / unique)}, by the ${repeated.law} law`);
  }
  function answer() {
    const said = $("said"), list = made("dl", undefined, "answers"), warnings = [], chip = know.chips[Number(asked("chip"))];
    const warn = text => { warnings.push(made("p", text, "warn")); };
    const hours = asked("unit") === "hours", shown = {flops: !hours, hours, chip: hours, used: hours && !chip.measured};
    for (const [id, on] of Object.entries(shown)) $(id).closest("label").hidden = !on;
    const convention = know.conventions.find(each => each.params === asked("params"));
    const law = convention.laws.find(each => each.law === asked("law")), flops = budget();
    const times = flops / convention.most, numbers = law && between(law.numbers, (Math.log(flops) - convention.start) / convention.step);
    if (!(flops > 0)) warn("The budget must be numbers above 0, such as 3e18 or 250.");
    else {
      const cell = row(list, "C", `${power(flops)} FLOPs, ${short(times)} times the largest fitted compute`, [flops]);
      if (hours) cell.append(`; ${power(chip.flops)} FLOP/s, ${chip.source}`);
      if (!law) warn(`The ${asked("law")} law is not told by these runs where N counts ${convention.counted} parameters.`);
      else if (times > know.tooFar)
        warn(`That is ${short(times / know.tooFar)} times beyond where these runs may speak, ${know.tooFar} times the largest ` +
          `fitted compute or ${power(know.tooFar * convention.most)} FLOPs: no number is given.`);
      else if (Math.log(flops) < convention.start - 1e-6)
        warn(`That is less than a tenth of the least fitted compute, ${power(convention.least)} FLOPs: no number is given.`);
      else if (!numbers) warn("No best split by this law at this budget.");
      else {
        if (times > know.far) warn(`More than ${know.far} times the largest fitted compute: an extrapolation far beyond the runs.`);
        if (flops < convention.least) warn("Less than the least fitted compute.");
        split(list, numbers, "");
        row(list, "one new run", `${bracket(numbers, 9, loss)} nats per token`, numbers.slice(9, 12));
        row(list, "another split", `half of that N costs ${numbers[12].toPrecision(2)} nats, twice ${numbers[13].toPrecision(2)}`,
          numbers.slice(12, 14));
        const others = convention.laws.filter(each => each.weight !== null && each !== law);
        const each = others.map(other => [other, between(other.numbers, (Math.log(flops) - convention.start) / convention.step)]);
        if (each.length) row(list, law.weight === null ? "each law" : "other laws", "L* " + each.filter(pair => pair[1])
          .map(([other, found]) => `${other.law} ${loss(found[6])} (weight ${other.weight.toFixed(2)})`).join(", "));
        if (asked("unique")) scarce(list, warn, convention, law, flops, numbers[3]);
        row(list, "in this folder", "").append(made("code", `${know.command} --params ${convention.params} --law ${law.law} ` +
          `--compute ${Number(flops.toPrecision(6)).toExponential().replace("+", "")}`));
      }
    }
    said.replaceChildren(...warnings, list, made("p", `Brackets hold ${100 * know.level} % intervals; ${convention.runs} runs are fitted.`, "soft"));
  }
  $("ask").hidden = false;
  $("ask").addEventListener("input", answer);
  answer();
}

function reveal() {  // what a link leads to may lie in something closed
  const around = location.hash && $(decodeURIComponent(location.hash.slice(1)))?.closest("details");
  if (around && !around.open) {
    around.open = true;
    around.scrollIntoView();
  }
}

for (const plot of document.querySelectorAll(".plot")) pointable(plot);
if ($("what-if-data")) panel(JSON.parse($("what-if-data").textContent));
addEventListener("hashchange", reveal);
let folded = [];  // on paper nothing can be opened
addEventListener("beforeprint", () => { (folded = [...document.querySelectorAll("details:not([open])")]).forEach(one => { one.open = true; }); });
addEventListener("afterprint", () => { for (const one of folded) one.open = false; });
reveal();
