// What a page can be asked about itself. Every function returns complaints, in words.
(() => {
  const short = (element) => {
    const words = (element.textContent || element.getAttribute("aria-label") || "").trim();
    const name = element.id ? `#${element.id}` : element.getAttribute("class") || "";
    return `<${element.localName} ${name}> "${words.slice(0, 40)}"`;
  };
  const seen = (element) =>
    element.checkVisibility({ contentVisibilityAuto: true, visibilityProperty: true });
  const plots = () => [...document.querySelectorAll("svg[role=img]")].filter(seen);
  const named = (plot) => `plot "${plot.getAttribute("aria-label")}"`;

  // The part of a line of text that has ink: letters do not fill their box from top to bottom.
  const ink = (text) => {
    const box = text.getBoundingClientRect();
    const slack = box.height * 0.2;
    return { left: box.left, right: box.right, top: box.top + slack, bottom: box.bottom - slack };
  };

  const over = (a, b) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;

  const channels = (colour) => {
    const canvas = document.createElement("canvas").getContext("2d");
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const [r, g, b] = channels(colour)
      .slice(0, 3)
      .map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const paper = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (channels(colour)[3] > 0) return colour;
    }
    return "Canvas";
  };

  window.__checks = {
    drawn: () =>
      plots().flatMap((plot) => {
        const box = plot.getBoundingClientRect();
        const shapes = [...plot.querySelectorAll("path, rect, line, circle, polygon")].filter(
          (shape) => {
            const { width, height } = shape.getBBox();
            const { fill, stroke, opacity } = getComputedStyle(shape);
            return width + height > 0 && (fill !== "none" || stroke !== "none") && opacity > 0;
          },
        );
        const out = [];
        if (!(box.width > 20 && box.height > 20)) out.push(`${named(plot)} has no size`);
        if (shapes.length < 2) out.push(`${named(plot)} draws ${shapes.length} shapes`);
        return out;
      }),

    inside: () =>
      plots().flatMap((plot) => {
        const frame = plot.getBoundingClientRect();
        return [...plot.querySelectorAll("text")].filter(seen).flatMap((text) => {
          const box = ink(text);
          const over = Math.max(
            frame.left - box.left,
            box.right - frame.right,
            frame.top - box.top,
            box.bottom - frame.bottom,
          );
          return over > 1 ? [`${named(plot)}: ${short(text)} is cut by ${over.toFixed(1)} px`] : [];
        });
      }),

    apart: () =>
      plots().flatMap((plot) => {
        const texts = [...plot.querySelectorAll("text")].filter(seen);
        const boxes = texts.map(ink);
        return texts.flatMap((text, i) =>
          texts
            .slice(i + 1)
            .filter((_, k) => over(boxes[i], boxes[i + 1 + k]))
            .map((other) => `${named(plot)}: ${short(text)} lies over ${short(other)}`),
        );
      }),

    // No cell, nor its words, over another of its row or the next.
    cells: () => {
      const whole = (cell) => {
        const words = document.createRange();
        words.selectNodeContents(cell);
        const boxes = [cell.getBoundingClientRect(), words.getBoundingClientRect()];
        return {
          left: Math.min(...boxes.map((box) => box.left)),
          right: Math.max(...boxes.map((box) => box.right)),
          top: Math.min(...boxes.map((box) => box.top)),
          bottom: Math.max(...boxes.map((box) => box.bottom)),
        };
      };
      const rows = [...document.querySelectorAll("tr")].map((row) =>
        [...row.cells].filter((cell) => seen(cell) && cell.textContent.trim()),
      );
      return rows.flatMap((row, n) =>
        row.flatMap((cell, i) =>
          [...row.slice(i + 1), ...(rows[n + 1] ?? [])]
            .filter((other) => over(whole(cell), whole(other)))
            .map((other) => `${short(cell)} lies over ${short(other)}`),
        ),
      );
    },

    // Axe does not read the colours and sizes of text in a picture.
    legible: () =>
      plots().flatMap((plot) => {
        const scale = plot.getBoundingClientRect().width / plot.viewBox.baseVal.width;
        return [...plot.querySelectorAll("text")].filter(seen).flatMap((text) => {
          const { fill, fontSize } = getComputedStyle(text);
          const ratio = contrast(fill, paper(plot));
          const size = parseFloat(fontSize) * scale;
          const out = [];
          if (ratio < 4.5) out.push(`${named(plot)}: ${short(text)} has contrast ${ratio.toFixed(2)}`);
          if (size < 8.5) out.push(`${named(plot)}: ${short(text)} is ${size.toFixed(1)} px high`);
          return out;
        });
      }),

    // Marks and lines that carry data, WCAG 1.4.11; the page's colours at full strength.
    visible: () =>
      plots().flatMap((plot) =>
        [...plot.querySelectorAll(".curve, .mark, .reference, .claimed, .bound:not(.faint)")].flatMap(
          (shape) => {
            const { fill, stroke } = getComputedStyle(shape);
            const ratios = [fill, stroke]
              .filter((colour) => colour !== "none")
              .map((colour) => contrast(colour, paper(plot)));
            return Math.max(...ratios) < 3
              ? [`${named(plot)}: ${short(shape)} has contrast ${Math.max(...ratios).toFixed(2)}`]
              : [];
          },
        ),
      ),

    tables: () =>
      plots().flatMap((plot) => {
        const table = plot.closest("section")?.querySelector("table tbody tr");
        return table ? [] : [`${named(plot)} has no table`];
      }),

    links: () => {
      const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
      const twice = ids.filter((id, i) => ids.indexOf(id) !== i);
      const dead = [...document.querySelectorAll("[href]")].filter((link) => {
        const target = link.getAttribute("href");
        return !(target.startsWith("#") && ids.includes(decodeURIComponent(target.slice(1))));
      });
      // The network does not hear of a data: address, but a report has none either.
      const loads = [...document.querySelectorAll("[src], [srcset], [poster], object, use, image")];
      const styles = [...document.querySelectorAll("style, [style]")].filter((element) =>
        /url\(|@import/.test(element.getAttribute("style") ?? element.textContent),
      );
      return [
        ...[...loads, ...styles].map((element) => `${short(element)} loads something`),
        ...twice.map((id) => `id ${id} is there twice`),
        ...dead.map((link) => `${short(link)} leads to ${link.getAttribute("href")}`),
      ];
    },

    fits: () => {
      const width = document.documentElement.clientWidth;
      const out = [];
      const whole = document.documentElement.scrollWidth;
      if (whole > width) out.push(`the page is ${whole} px wide of ${width}`);
      for (const element of document.body.querySelectorAll("*")) {
        if (!seen(element) || element.parentElement.closest(".scroll, pre, svg")) continue;
        const over = element.getBoundingClientRect().right - width;
        if (over > 1) out.push(`${short(element)} is ${over.toFixed(1)} px too wide`);
        const own = getComputedStyle(element);
        const scrolls = element.scrollWidth > element.clientWidth + 1 && own.overflowX !== "visible";
        if (scrolls && !element.matches(".scroll, pre")) out.push(`${short(element)} hides its end`);
      }
      return out;
    },

    // In print nothing can be scrolled or opened.
    whole: () => {
      const width = document.documentElement.clientWidth;
      const folded = [...document.querySelectorAll("details > :not(summary)")];
      const cut = [...document.body.querySelectorAll("*")].filter(
        (element) => seen(element) && element.getBoundingClientRect().right > width + 1,
      );
      return [
        ...folded.filter((e) => !seen(e)).map((e) => `${short(e)} stays folded`),
        ...cut.map((e) => `${short(e)} is cut at the right`),
        ...[...document.querySelectorAll(".scroll, pre")]
          .filter((e) => e.scrollWidth > e.clientWidth + 1)
          .map((e) => `${short(e)} is ${e.scrollWidth} px wide of ${e.clientWidth}`),
      ];
    },

    // What is beside the point is never larger than what it stands in.
    muted: () => {
      const soft = String(channels(getComputedStyle(document.documentElement).getPropertyValue("--soft")));
      const size = (element) => parseFloat(getComputedStyle(element).fontSize);
      return [...document.body.querySelectorAll(":not(h1, h2, h3, svg *)")]
        .filter((element) => seen(element) && element.textContent.trim())
        .filter((e) => e.matches("small, i") || String(channels(getComputedStyle(e).color)) === soft)
        .filter((element) => size(element) > size(element.parentElement) + 0.01)
        .map((element) => `${short(element)} is larger than what it stands in`);
    },

    // Colours that carry a meaning must not all become one.
    swatches: () =>
      [...document.querySelectorAll(".swatch")].filter(seen).flatMap((swatch) => {
        const { backgroundColor, borderTopWidth, borderTopColor } = getComputedStyle(swatch);
        const around = paper(swatch.parentElement);
        const filled = contrast(backgroundColor, around) >= 1.2;
        const framed = parseFloat(borderTopWidth) > 0 && contrast(borderTopColor, around) >= 3;
        return filled || framed ? [] : [`${short(swatch.parentElement)} has a swatch of no colour`];
      }),

    // Everything that the Tab key must reach, in order.
    stops: () => {
      const wanted = "a[href], summary, .scroll, button, input, select, textarea";
      window.stops = [...document.querySelectorAll(wanted)].filter(seen);
      window.visited = [];
      document.addEventListener("focusin", ({ target }) => {
        const { outlineStyle, outlineWidth } = getComputedStyle(target);
        const marked = outlineStyle !== "none" && parseFloat(outlineWidth) >= 1;
        window.visited.push({ target, marked });
      });
      return window.stops.length;
    },
    reached: () => {
      const order = window.visited.map(({ target }) => target);
      const places = window.stops.map((stop) => order.indexOf(stop));
      return [
        ...window.stops.filter((_, i) => places[i] < 0).map((s) => `Tab misses ${short(s)}`),
        ...window.stops
          .filter((_, i) => places[i] >= 0 && places[i] < Math.max(...places.slice(0, i), -1))
          .map((s) => `Tab reaches ${short(s)} out of order`),
        ...window.visited
          .filter(({ marked }) => !marked)
          .map(({ target }) => `${short(target)} does not show the focus`),
      ];
    },
  };
})();
