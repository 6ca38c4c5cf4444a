// What does not fit on a page in the window's width, or is hard to read, as lines of text; none on a good page.
() => {
  const faults = [];
  const report = (fault, element, figures) => {
    const text = element.textContent.trim().replace(/\s+/g, " ").slice(0, 50);
    faults.push(`${fault}: <${element.tagName.toLowerCase()} class="${element.getAttribute("class") ?? ""}"> “${text}” (${figures})`);
  };
  const isShown = (element) => element.getClientRects().length > 0 && !["SCRIPT", "STYLE", "TITLE"].includes(element.tagName);
  const isInScroller = (element) => {
    const parent = element.parentElement;
    return parent !== null && (getComputedStyle(parent).overflowX !== "visible" || isInScroller(parent));
  };

  // Nothing is wider than the page, except inside of what scrolls; on a wide page, only code scrolls.
  for (const element of document.body.querySelectorAll("*")) {
    if (!isShown(element)) continue;
    const { left, right } = element.getBoundingClientRect(), style = getComputedStyle(element);
    if ((right > innerWidth + 1 || left < -1) && !isInScroller(element)) report("wider than the page", element, `${left} to ${right}`);
    if (element instanceof SVGElement || style.overflowX === "visible" || element.scrollWidth <= element.clientWidth + 1) continue;
    const figures = `${element.scrollWidth} in ${element.clientWidth}`;
    if (style.overflowX === "auto" && !style.backgroundAttachment.includes("local")) report("scrolls without a shadow", element, figures);
    if (innerWidth >= 1280 && element.matches(".box, .strips")) report("scrolls on a wide page", element, figures);
    if (style.textOverflow === "ellipsis" && !element.closest("[title]")) report("cut text", element, figures);
  }

  // Text of a figure lies inside of the figure, is large enough, and does not touch other text.
  for (const figure of document.querySelectorAll("svg")) {
    const frame = figure.getBoundingClientRect(), boxes = [];
    for (const text of [...figure.querySelectorAll("text")].filter(isShown)) {
      const box = text.getBoundingClientRect(), { a, b } = text.getScreenCTM();
      const beyond = Math.max(frame.left - box.left, box.right - frame.right, frame.top - box.top, box.bottom - frame.bottom);
      if (beyond > 1) report("text beyond its figure", text, `${beyond} px`);
      const size = parseFloat(getComputedStyle(text).fontSize) * Math.hypot(a, b);
      if (size < 7.8) report("small text", text, `${size} px`);
      if (Math.abs(a * b) > 0.01) continue; // oblique: its box is larger than the text
      for (const other of boxes) {
        const across = Math.min(box.right, other.right) - Math.max(box.left, other.left);
        const down = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
        if (across > (Math.abs(b) < 0.01 ? -2 : 2) && down > 4) report("text that touches other text", text, `${across} by ${down} px`);
      }
      boxes.push(box);
    }
  }

  // Contrast of all text with what lies behind it is at least 4.5. Cells of a confusion matrix are pictures: see its tests.
  const colour = (css) => { const parts = css.match(/[\d.]+/g).map(Number); return parts.length < 4 ? [...parts, 1] : parts; };
  const blend = ([r, g, b, alpha], under) => [r, g, b].map((part, i) => alpha * part + (1 - alpha) * under[i]);
  const linear = (part) => (part <= 10 ? part / 3294.6 : ((part / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (element) => element === null ? [255, 255, 255] : blend(colour(getComputedStyle(element).backgroundColor), ground(element.parentElement));
  const onFill = colour(getComputedStyle(document.body).getPropertyValue("--on-fill").replace(/#(..)(..)(..)/, (_, ...hex) => hex.slice(0, 3).map((part) => parseInt(part, 16)).join(",")));
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), seen = new Set();
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || seen.has(element) || !isShown(element)) continue;
    seen.add(element);
    const style = getComputedStyle(element), behind = [ground(element)];
    const tint = style.backgroundImage.match(/rgba?\([^)]*\)/);
    if (tint) behind.push(blend(colour(tint[0]), behind[0]));
    const ink = colour(element instanceof SVGElement ? style.fill : style.color);
    if (element instanceof SVGElement && String(ink) === String(onFill)) continue;
    for (const under of behind) {
      const [dark, light] = [luminance(blend(ink, under)), luminance(under)].sort((a, b) => a - b);
      const contrast = (light + 0.05) / (dark + 0.05);
      if (contrast < 4.5) report("low contrast", element, contrast.toFixed(2));
    }
  }
  return faults;
}
