// The report's data, and the few helpers that everything else uses.
// What the data say gets into the document as text only: nothing here takes markup.

const REPORT = JSON.parse(document.getElementById("data").textContent);

const byId = (id) => document.getElementById(id);

/** Make an element; a child is an element or a text. */
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") made.addEventListener("click", value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Write a number with at most six digits that count. */
function plain(value) {
  if (value === null || value === undefined) return "";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(3);
  return Number(value.toPrecision(6)).toLocaleString("en", { maximumFractionDigits: 9 });
}

/** Write seconds since 1970 as date and time, in UTC. */
function clockTime(seconds) {
  return seconds === null ? "" : new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ");
}

const TYPES = {
  u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i4: Int32Array, f4: Float32Array, f8: Float64Array,
};

/** Return the numbers that `_packed` of drawing.py wrote; timesteps count from the first one. */
async function unpacked(packed) {
  const bytes = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const values = new TYPES[packed.dtype](await new Response(stream).arrayBuffer());
  if (packed.kind !== "steps") return values;
  const steps = new Float64Array(values.length);
  for (let i = 0, sum = 0; i < steps.length; i++) steps[i] = sum += values[i];
  return steps;
}

/** Return the first index whose value is not below `bound`, in ascending values. */
function lowerBound(values, bound) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < bound) low = middle + 1;
    else high = middle;
  }
  return low;
}
