// The law of repeated data, asked anew for each budget and number of unique tokens: it has kinks, which no grid of
// answers would keep. As scaling/fitting/laws/repeat.py and Fit.optimum_intervals, which a test compares it with.

function repeated([E, A, B, alpha, beta, ofD, ofN], n, d, unique, p) {
  const worth = (again, half) => -half * Math.expm1(-again / half), u = Math.min(unique, d);
  const best = Math.exp((Math.log(alpha * A / (beta * B)) + beta * Math.log(u)) / alpha), base = Math.min(n, best);
  const size = base * (1 + worth(n / base - 1, ofN)), data = u * (1 + worth(d / u - 1, ofD));
  const byN = A * size ** -alpha, byD = B * data ** -beta;
  const upN = n * Math.exp(-(n / base - 1) / ofN) / size, upD = d * Math.exp(-(d / u - 1) / ofD) / data;
  const follows = d < unique && best < n ? (1 - upN) * beta / alpha : 0;
  return {loss: E + byN + byD, tilt: -alpha * byN * upN + p * (beta * byD * upD + alpha * byN * follows)};
}
// [N, D, loss] of the least loss under C = k N^p D: on a grid, then where the slope changes its sign. Not numbers where
// there is none.
function repeatedSplit(theta, flops, [k, p], unique) {
  const [, A, B, alpha, beta] = theta, c = flops / k, count = 185, reach = 9.2, step = 2 * reach / (count - 1);
  const fresh = (Math.log(alpha * A / (p * beta * B)) + beta * Math.log(c)) / (alpha + p * beta);
  const law = x => repeated(theta, Math.exp(x), c / Math.exp(p * x), unique, p), at = i => fresh - reach + i * step;
  let best = 0, least = law(at(0)).loss;
  for (let i = 1; i < count; i++) {
    const loss = law(at(i)).loss;
    if (loss < least) [best, least] = [i, loss];
  }
  if (best === 0 || best === count - 1) return [NaN, NaN, NaN];
  let low = at(best - 1), high = at(best + 1);
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (law(middle).tilt < 0) low = middle; else high = middle;
  }
  const n = Math.exp((low + high) / 2), d = c / n ** p;
  return [n, d, repeated(theta, n, d, unique, p).loss];
}
function quantile(values, share) {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b), at = share * (sorted.length - 1), k = Math.floor(at);
  return sorted[k] + (at - k) * ((sorted[k + 1] ?? sorted[k]) - sorted[k]);
}
// [N, low, high, D, low, high, loss, low, high], or null: intervals of the refits, or else by the delta method.
function repeatedAnswer(law, level, flops, unique) {
  const value = repeatedSplit(law.theta, flops, law.cost, unique);
  if (!value.every(Number.isFinite)) return null;
  if (law.draws) {
    const every = law.draws.map(theta => repeatedSplit(theta, flops, law.cost, unique));
    return value.flatMap((v, j) => [v, ...[-1, 1].map(side => quantile(every.map(one => one[j]), (1 + side * level) / 2))]);
  }
  const step = 1e-5, moved = (i, by) => law.theta.map((v, j) => j !== i ? v : law.logs[j] ? v * Math.exp(by) : v + by);
  const slopes = law.theta.map((_, i) => {
    const [up, down] = [step, -step].map(by => repeatedSplit(moved(i, by), flops, law.cost, unique));
    return up.map((v, j) => (v - down[j]) / (2 * step));
  });
  const form = (a, matrix) => a.reduce((sum, x, i) => sum + a.reduce((part, y, j) => part + x * matrix[i][j] * y, 0), 0);
  return value.flatMap((v, j) => {
    const slope = slopes.map(row => row[j]), variance = form(slope, law.covariance);
    const doubt = form(law.parts.map(part => form(slope, part)), law.variances);
    const dof = doubt > 0 ? Math.min(Math.max(2 * variance ** 2 / doubt, 1), law.spare) : law.dof;
    const reach = between(law.quantiles.map(t => [t]), Math.log(Math.max(dof, 1)) / law.step)[0];
    const factor = Math.exp(Math.min(reach * Math.sqrt(Math.max(variance, 0)) / v, 300));
    return [v, v / factor, v * factor];
  });
}
