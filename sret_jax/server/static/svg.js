// SVG elements, and the few drawings that the page has.

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const ICONS = {
  heat: "M12 3c1 3-4 5.500-4 10a4 4 0 0 0 8 0c0-1.500-.6-2.600-1.200-3.500C14 11 13 11.500 12.500 11c-1-1.500 1-4.500-.5-8z" +
    "M8 12.500A6.500 6.500 0 1 0 17 9",
  open: "M14 4h6v6M20 4l-9 9M18 14v4a2 2 0 0 1-2 2H6a2 2 0 0 1-2-2V8a2 2 0 0 1 2-2h4",
};

export const icon = (name) => svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));

// Closed polygons of [x, y] as the path of an SVG.
export const path = (polygons) => polygons.map((points) => `M${points.map((p) => p.join(",")).join("L")}Z`).join("");
