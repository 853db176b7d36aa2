// A world drawn on a canvas: squares of a grid, or vehicles on a road, as /v1/play tells them.

const COLOURS = { // of minigrid's names, that can be told apart on light and on dark
  red: "#d4483b", green: "#3f9b4b", blue: "#3f78d4", purple: "#9a5fc4", yellow: "#c99a16", grey: "#8a979b",
};
const GRID_PX = 420;
const ROAD_PX = [760, 300];
const BEHIND_M = 25;
const AHEAD_M = 75;
const LANE_M = 4;

// false: there is nothing that this page can draw.
export function drawScene(canvas, scene) {
  const draw = { grid: drawGrid, road: drawRoad }[scene.kind];
  if (!draw) return false;
  draw(canvas, scene, paintsOf(canvas));
  canvas.setAttribute("aria-label", toldOf(scene));
  return true;
}

// Colours of the page: they follow light and dark.
function paintsOf(canvas) {
  const style = getComputedStyle(canvas.isConnected ? canvas : document.body);
  return (name) => style.getPropertyValue(`--${name}`).trim();
}

// Sized in the screen's own pixels, so that lines are sharp.
function prepared(canvas, width, height) {
  const times = window.devicePixelRatio || 1;
  canvas.width = width * times;
  canvas.height = height * times;
  canvas.style.width = `${width}px`;
  const context = canvas.getContext("2d");
  context.scale(times, times);
  return context;
}

// ------------------------------------------------------------------ squares

function drawGrid(canvas, { width, height, agent, things }, paint) {
  const size = Math.floor(GRID_PX / Math.max(width, height));
  const context = prepared(canvas, size * width, size * height);
  context.fillStyle = paint("well");
  context.fillRect(0, 0, size * width, size * height);
  context.strokeStyle = paint("line");
  for (let x = 0; x <= width; x += 1) line(context, [x * size, 0], [x * size, size * height]);
  for (let y = 0; y <= height; y += 1) line(context, [0, y * size], [size * width, y * size]);
  for (const [x, y, kind, colour] of things) {
    context.save();
    context.translate(x * size, y * size);
    context.fillStyle = context.strokeStyle = COLOURS[colour] ?? paint("ink");
    (THINGS[kind] ?? THINGS.other)(context, size, paint);
    context.restore();
  }
  const [x, y, direction] = agent;
  context.save();
  context.translate((x + 0.5) * size, (y + 0.5) * size);
  context.rotate((direction * Math.PI) / 2);
  context.fillStyle = paint("accent");
  shape(context, [[0.36 * size, 0], [-0.28 * size, 0.3 * size], [-0.14 * size, 0], [-0.28 * size, -0.3 * size]]);
  context.restore();
}

const THINGS = {
  wall(context, size, paint) {
    context.fillStyle = paint("edge");
    context.fillRect(0, 0, size, size);
  },
  ball(context, size) {
    context.beginPath();
    context.arc(size / 2, size / 2, 0.32 * size, 0, 2 * Math.PI);
    context.fill();
  },
  box(context, size) {
    context.lineWidth = Math.max(2, 0.09 * size);
    context.strokeRect(0.2 * size, 0.2 * size, 0.6 * size, 0.6 * size);
    line(context, [0.2 * size, 0.5 * size], [0.8 * size, 0.5 * size]);
  },
  key(context, size) {
    context.lineWidth = Math.max(2, 0.1 * size);
    context.beginPath();
    context.arc(0.5 * size, 0.3 * size, 0.14 * size, 0, 2 * Math.PI);
    context.stroke();
    line(context, [0.5 * size, 0.44 * size], [0.5 * size, 0.84 * size]);
    line(context, [0.5 * size, 0.82 * size], [0.68 * size, 0.82 * size]);
    line(context, [0.5 * size, 0.66 * size], [0.64 * size, 0.66 * size]);
  },
  door(context, size) {
    context.fillRect(0.06 * size, 0.06 * size, 0.88 * size, 0.88 * size);
    context.clearRect(0.68 * size, 0.45 * size, 0.12 * size, 0.12 * size);
  },
  "open door"(context, size) {
    context.fillRect(0, 0, size, 0.16 * size);
  },
  goal(context, size) {
    context.globalAlpha = 0.6;
    context.fillRect(2, 2, size - 4, size - 4);
  },
  other(context, size) {
    shape(context, [[0.5 * size, 0.2 * size], [0.8 * size, 0.5 * size], [0.5 * size, 0.8 * size], [0.2 * size, 0.5 * size]]);
  },
};

function line(context, from, to) {
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
}

function shape(context, points) {
  context.beginPath();
  points.forEach((point, n) => (n ? context.lineTo(...point) : context.moveTo(...point)));
  context.closePath();
  context.fill();
}

// ------------------------------------------------------------------ a road

function drawRoad(canvas, { lanes, vehicles }, paint) {
  const [width, height] = ROAD_PX;
  const context = prepared(canvas, width, height);
  const scale = width / (BEHIND_M + AHEAD_M);
  const [x, y] = vehicles.find((vehicle) => vehicle[5]) ?? [0, 0];
  const middle = middleOf(lanes, [x, y]);
  context.fillStyle = paint("well");
  context.fillRect(0, 0, width, height);
  context.save();
  context.scale(scale, scale);
  context.translate(BEHIND_M - x, height / scale / 2 - middle);
  for (const lane of lanes) path(context, lane, LANE_M, paint("line"));
  context.setLineDash([3, 4]);
  for (const lane of lanes) for (const aside of [-LANE_M / 2, LANE_M / 2]) path(context, lane.map(([a, b]) => [a, b + aside]), 0.18, paint("edge"));
  context.setLineDash([]);
  for (const vehicle of vehicles) drawVehicle(context, vehicle, paint);
  context.restore();
}

// Of straight roads the middle of all lanes, so that the road stands still while the vehicle changes lanes.
function middleOf(lanes, own) {
  const rows = lanes.map((lane) => lane[0][1]);
  const isStraight = lanes.every((lane) => lane.every(([, b]) => b === lane[0][1]));
  return isStraight && rows.length ? (Math.min(...rows) + Math.max(...rows)) / 2 : own[1];
}

function path(context, points, wide, colour) {
  context.strokeStyle = colour;
  context.lineWidth = wide;
  context.beginPath();
  points.forEach((point, n) => (n ? context.lineTo(...point) : context.moveTo(...point)));
  context.stroke();
}

function drawVehicle(context, [x, y, heading, length, wide, isOwn, hasCrashed], paint) {
  context.save();
  context.translate(x, y);
  context.rotate(heading);
  context.fillStyle = hasCrashed ? paint("alarm") : isOwn ? paint("accent") : paint("soft");
  context.beginPath();
  context.roundRect(-length / 2, -wide / 2, length, wide, 0.5);
  context.fill();
  context.fillStyle = paint("sheet"); // the windscreen says where it goes
  context.globalAlpha = 0.65;
  context.fillRect(0.1 * length, -0.36 * wide, 0.16 * length, 0.72 * wide);
  context.restore();
}

// ------------------------------------------------------------------ in words

function toldOf(scene) {
  if (scene.kind === "road") {
    const own = scene.vehicles.find((vehicle) => vehicle[5]);
    const ahead = scene.vehicles.filter((vehicle) => own && vehicle[0] > own[0] && vehicle[0] < own[0] + AHEAD_M).length;
    return `A road of ${scene.lanes.length} lanes; ${ahead} vehicles ahead; ${scene.told}`;
  }
  const [x, y, direction] = scene.agent;
  const looks = ["right", "down", "left", "up"][direction] ?? "";
  const things = (scene.things ?? []).filter(([, , kind]) => kind !== "wall").map(([a, b, kind, colour]) => `${colour} ${kind} at ${a}, ${b}`);
  return `The agent at ${x}, ${y} looks ${looks}; ${things.join("; ")}; ${scene.told ?? ""}`;
}
