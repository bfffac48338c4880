/** Pictures with the dropped tokens dimmed, and relevance as colour. */
const WASH = "rgba(255, 255, 255, 0.66)"; // over what was dropped, which is grey besides
const EDGE = "#e8590c";
const COARSE = 0.6; // how much an overview tile alone uncovers, where finer tiles are there
const GAP = 3; // between the pictures of a sheet, in CSS pixels
const RAMP = ["#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4"].map((hex) =>
  [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)),
);

const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const bit = (bytes, i) => (bytes[i >> 3] >> (7 - (i & 7))) & 1;

/** What stands at a layer: the last stage up to it; null where nothing was dropped yet. */
const stageAt = (stages, layer) => {
  const known = Object.keys(stages).map(Number).filter((stage) => stage <= layer).sort((a, b) => a - b);
  return known.length ? String(known[known.length - 1]) : null;
};

/** Tokens of a record that stand at a layer, and of how many. */
const counted = (record, places, layer) => {
  let kept = 0;
  let merged = 0;
  let all = 0;
  for (const [, place, stages, more] of record) {
    const [rows, columns, tiles] = places[place];
    const size = rows * columns * tiles.length;
    const stage = stageAt(stages, layer);
    all += size;
    if (stage === null) kept += size;
    else {
      const bytes = bytesOf(stages[stage]);
      for (let i = 0; i < size; i += 1) kept += bit(bytes, i);
    }
    const where = more ? stageAt(more, layer) : null;
    if (where !== null) merged += more[where];
  }
  return { kept, merged, all };
};

/** Columns and rows of a sheet of pictures. */
const sheetOf = (count) => {
  const columns = count <= 1 ? 1 : count <= 4 ? 2 : 4;
  return { columns, rows: Math.ceil(count / columns) };
};

/** Width over height of a sheet, as large as its first picture says. */
const shapeOf = (images) => {
  const { columns, rows } = sheetOf(images.length);
  const first = images.find(Boolean);
  const one = first ? first.naturalWidth / first.naturalHeight : 1;
  return (columns * one) / rows;
};

/** Gives a canvas as many pixels as the screen shows of it, and returns how many a CSS pixel has. */
const sized = (canvas, shape) => {
  const width = canvas.clientWidth || 160;
  const scale = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = Math.round(width * scale);
  canvas.height = Math.max(1, Math.round((width * scale) / shape));
  return scale;
};

/** The tiles of a picture's parts as they are drawn: a rectangle in pixels, a grid, and the bytes of its tokens. `read` gives
 *  the bytes of a part; rough: an overview of what other tiles show finer. */
const tilesOf = (parts, places, read, width, height) => {
  const tiles = parts.flatMap((part) => {
    const [rows, columns, rectangles] = places[part[1]];
    const bytes = read(part);
    return rectangles.map(([x0, y0, x1, y1], t) => {
      const [w, h] = [((x1 - x0) * width) / columns, ((y1 - y0) * height) / rows];
      return { x: x0 * width, y: y0 * height, w, h, rows, columns, bytes, start: t * rows * columns };
    });
  });
  const least = Math.min(...tiles.map((tile) => Math.abs(tile.w * tile.h)));
  return tiles.map((tile) => ({ ...tile, rough: Math.abs(tile.w * tile.h) > 1.5 * least }));
};

/** Whether a tile's token stands; outside of the tile nothing does. */
const stands = (tile, r, c) => {
  if (r < 0 || c < 0 || r >= tile.rows || c >= tile.columns) return false;
  return tile.bytes === null || bit(tile.bytes, tile.start + r * tile.columns + c) === 1;
};

/** Calls back with each token that stands: row, column, and its left, top, right and bottom in whole pixels. */
const eachKept = (tile, tell) => {
  for (let r = 0; r < tile.rows; r += 1)
    for (let c = 0; c < tile.columns; c += 1) {
      if (!stands(tile, r, c)) continue;
      const [x, y] = [tile.x + c * tile.w, tile.y + r * tile.h];
      tell(r, c, Math.round(x), Math.round(y), Math.round(x + tile.w), Math.round(y + tile.h));
    }
};

const spare = document.createElement("canvas");

/** The picture in pale grey. */
const washed = (image, width, height) => {
  spare.width = Math.ceil(width);
  spare.height = Math.ceil(height);
  const over = spare.getContext("2d");
  over.drawImage(image, 0, 0, width, height);
  for (const [blend, colour] of [["saturation", "#808080"], ["source-over", WASH]]) {
    over.globalCompositeOperation = blend;
    over.fillStyle = colour;
    over.fillRect(0, 0, spare.width, spare.height);
  }
  return over;
};

/** Lines where tokens that stand meet others, in the finest tiles. */
const edges = (context, tiles, scale) => {
  const fine = tiles.filter((one) => !one.rough);
  if (Math.abs(fine[0].w) < 5 * scale) return; // there would be more line than picture
  context.beginPath();
  for (const tile of fine)
    eachKept(tile, (r, c, left, top, right, bottom) => {
      const sides = [[-1, 0, left, top, right, top], [1, 0, left, bottom, right, bottom], [0, -1, left, top, left, bottom], [0, 1, right, top, right, bottom]];
      for (const [dr, dc, x0, y0, x1, y1] of sides) {
        if (stands(tile, r + dr, c + dc)) continue;
        context.moveTo(x0, y0);
        context.lineTo(x1, y1);
      }
    });
  context.strokeStyle = EDGE;
  context.lineWidth = Math.min(scale, Math.abs(fine[0].w) / 14);
  context.stroke();
};

/** One picture at the origin of `context`: what no tile keeps is pale and grey, what an overview alone keeps half so. */
const drawOne = (context, image, parts, places, layer, width, height, scale) => {
  if (!image) return;
  context.drawImage(image, 0, 0, width, height);
  if (!parts.some((part) => stageAt(part[2], layer) !== null)) return;
  const read = (part) => (stageAt(part[2], layer) === null ? null : bytesOf(part[2][stageAt(part[2], layer)]));
  const tiles = tilesOf(parts, places, read, width, height);
  const over = washed(image, width, height);
  over.globalCompositeOperation = "destination-out";
  for (const rough of [true, false]) {
    over.fillStyle = `rgba(0, 0, 0, ${rough ? COARSE : 1})`;
    for (const tile of tiles.filter((one) => one.rough === rough))
      eachKept(tile, (r, c, left, top, right, bottom) => over.fillRect(left, top, right - left, bottom - top));
  }
  context.drawImage(spare, 0, 0);
  context.beginPath();
  context.rect(0, 0, width, height);
  context.clip();
  edges(context, tiles, scale);
};

/** A sheet of all pictures of a sample with the tokens that a record keeps. */
const drawKept = (canvas, images, record, places, layer) => {
  const shape = shapeOf(images);
  const scale = sized(canvas, shape);
  const context = canvas.getContext("2d");
  const { columns, rows } = sheetOf(images.length);
  const gap = images.length > 1 ? GAP * scale : 0;
  const width = (canvas.width - gap * (columns - 1)) / columns;
  const height = (canvas.height - gap * (rows - 1)) / rows;
  images.forEach((image, i) => {
    context.save();
    context.translate(Math.round((i % columns) * (width + gap)), Math.round(Math.floor(i / columns) * (height + gap)));
    drawOne(context, image, (record ?? []).filter(([pictures]) => pictures.includes(i)), places, layer, width, height, scale);
    context.restore();
  });
};

/** Relevance over a picture, overviews first and finer tiles on top. */
const drawSeen = (canvas, image, parts, places) => {
  sized(canvas, image ? image.naturalWidth / image.naturalHeight : 1);
  const context = canvas.getContext("2d");
  const tiles = tilesOf(parts, places, (part) => bytesOf(part[2]), canvas.width, canvas.height);
  for (const tile of [...tiles.filter((one) => one.rough), ...tiles.filter((one) => !one.rough)]) {
    const map = new ImageData(tile.columns, tile.rows);
    for (let i = 0; i < tile.rows * tile.columns; i += 1) map.data.set([...tint(tile.bytes[tile.start + i] / 255), 255], 4 * i);
    spare.width = tile.columns;
    spare.height = tile.rows;
    spare.getContext("2d").putImageData(map, 0, 0);
    context.drawImage(spare, tile.x, tile.y, tile.w * tile.columns, tile.h * tile.rows);
  }
};

/** A colour of the ramp, between its neighbours. */
const tint = (share) => {
  const at = share * (RAMP.length - 1);
  const i = Math.min(Math.floor(at), RAMP.length - 2);
  return RAMP[i].map((from, k) => Math.round(from + (at - i) * (RAMP[i + 1][k] - from)));
};
