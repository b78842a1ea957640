// Fill the page.

function rowsTable(rows, caption) {
  const lines = rows.map(([name, text]) => make(
    "tr", {}, make("th", { scope: "row" }, name), make("td", { class: "value" }, text),
  ));
  return make("table", {}, make("caption", {}, caption), make("tbody", {}, ...lines));
}

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0, value = bytes;
  while (value >= 1000 && at < units.length - 1) { value /= 1000; at++; }
  return `${at ? value.toFixed(1) : value} ${units[at]}`;
}

function showSummary() {
  for (const [label, text] of REPORT.facts) byId("facts").append(make("dt", {}, label), make("dd", {}, text));
  const heads = [
    ["field", ""], ["unit", ""], ["type", ""], ["rows", "number"], ["size", "number"],
    ["compressed", "number"], ["by", ""],
  ];
  const head = heads.map(([text, kind]) => make("th", { scope: "col", class: kind || null }, text));
  const lines = REPORT.fields.map(([name, unit, kind, rows, bytes, ratio, by]) => make(
    "tr", {}, make("th", { scope: "row" }, name), make("td", {}, unit), make("td", { class: "text" }, kind.replace(/ \(\)$/, "")),
    make("td", { class: "number" }, plain(rows)), make("td", { class: "number" }, size(bytes)),
    make("td", { class: "number" }, ratio), make("td", { class: "text" }, by),
  ));
  byId("fields").append(make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...lines));
}

function healthRows() {
  const { health } = REPORT;
  const rows = [["status", health.statuses, health.statuses.includes("failed") ? "bad" : ""]];
  const { verified, missing, unfinished } = health;
  if (!verified) rows.push(["verified", "not asked for", ""]);
  else if (verified.is_sound) {
    rows.push(["verified", `sound: ${plain(verified.shards)} shards are there and as they were merged`, "good"]);
  } else rows.push(["verified", `${plain(verified.count)} problems, listed below`, "bad"]);
  rows.push(unfinished.count
    ? ["unfinished", `${plain(unfinished.count)} episodes: ${unfinished.text}`, "bad"]
    : ["unfinished", "none", "good"]);
  if (missing) {
    rows.push(missing.count
      ? ["expected, not completed", `${plain(missing.count)}: ${missing.text}`, "bad"]
      : ["expected, not completed", "none", "good"]);
  }
  if (health.unread.length) rows.push(["not readable", `${plain(health.unread.length)}, listed below`, "bad"]);
  return rows;
}

function showHealth() {
  const { verified, unread, performance } = REPORT.health;
  const rows = healthRows();
  const view = byId("health-view");
  const list = make("dl");
  for (const [label, text, kind] of rows) {
    const sign = { good: "✓ ", bad: "✗ " }[kind] ?? "";
    list.append(make("dt", {}, label), make("dd", { class: kind || null }, sign + text));
  }
  view.append(list);
  if (verified?.problems.length) {
    view.append(rowsTable(
      verified.problems.map((each) => [each.where, `${each.problem}; ${each.mend}`]),
      `Problems that verifying found${verified.count > verified.problems.length ? ", the first of them" : ""}`,
    ));
  }
  if (unread.length) view.append(rowsTable(unread, "Episodes that cannot be read"));
  const cost = performance || "Not measured: record with enable_profiling=True.";
  view.append(make("h3", {}, "What recording cost"), performance ? make("pre", {}, cost) : make("p", {}, cost));
  const bad = rows.filter(([, , kind]) => kind === "bad");
  const line = byId("health-line");
  line.className = bad.length ? "bad" : "good";
  line.textContent = bad.length
    ? `✗ ${bad.map(([label, text]) => `${label}: ${text}`).join(" · ")}`
    : "✓ all episodes completed, nothing unfinished" + (verified ? ", verified" : "");
}

function showProvenance() {
  const parts = [
    ["Configuration", REPORT.config], ["Git", REPORT.git], ["Recording options and metadata", REPORT.options],
    ["Machine and packages", REPORT.runtime],
  ];
  parts.forEach(([title, rows], i) => {
    const content = rows.length
      ? make("div", { class: "wide", tabindex: "0", role: "region", "aria-label": title }, rowsTable(rows, ""))
      : make("p", { class: "hint" }, "nothing was saved");
    byId("provenance-view").append(make("details", { open: i < 2 }, make("summary", {}, title), content));
  });
}

showSummary();
showHealth();
showProvenance();
{
  const { columns } = REPORT.episodes;
  if (columns[0].values.length) {
    const look = closerLook(REPORT.drawn);
    const table = new EpisodeTable(columns, REPORT.drawn.map((each) => each.id), look);
    showOverview(columns, (id) => table.find(id));
  } else {
    for (const id of ["overview", "episodes", "closer"]) byId(id).hidden = true;
  }
}
byId("footer").textContent = `Written by shardwriter ${REPORT.version} at ${REPORT.made}.`;
document.documentElement.dataset.ready = "true";
