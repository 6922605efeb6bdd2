// What a budget would buy: read between the answers of the fits that Python put down on a grid.

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
    const unique = number(asked("unique")), repeated = know.repeated[Number(asked("repeating"))];
    if (!(unique > 0)) return warn("unique tokens: a number above 0, such as 2e9 or 500M, or nothing");
    if (unique >= wanted) return row(list, "data", `${short(unique)} unique tokens are enough: none is seen twice`);
    let least = 0;  // the budget that one pass over them is the best split of
    law.numbers.forEach((known, k) => { if (known && known[3] <= unique) least = Math.exp(convention.start + k * convention.step); });
    const once = least ? `; one pass is the best split of about ${power(least)} FLOPs` : "";
    warn(`The best split asks for ${short(wanted / unique)} passes over ${short(unique)} unique tokens. The numbers below ` +
      `take every token as fresh, and the loss will be higher${once}.`);
    if (!repeated) return warn("This study has no law of repeated data, so it cannot say by how much.");
    if (repeated.params !== convention.params)
      return warn("This study's law of repeated data counts other parameters in N, so it cannot say by how much.");
    const found = repeatedAnswer(repeated, know.level, flops, unique);
    if (!found) return warn(`The ${repeated.law} law has no best split there.`);
    if (wanted / unique > repeated.passes)
      warn(`The runs of its fit saw their tokens ${short(repeated.passes)} times at most: beyond that it extrapolates.`);
    split(list, found, ", repeated");
    row(list, "passes", `${short(found[3] / unique)}, by the ${repeated.law} law of the runs of ${repeated.group}`);
  }
  function answer() {
    const said = $("said"), list = made("dl", undefined, "answers"), warnings = [], chip = know.chips[Number(asked("chip"))];
    const warn = text => { warnings.push(made("p", text, "warn")); };
    const hours = asked("unit") === "hours", repeating = asked("unique") !== "" && know.repeated.length > 1;
    const shown = {flops: !hours, hours, chip: hours, used: hours && !chip.measured, repeating};
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
