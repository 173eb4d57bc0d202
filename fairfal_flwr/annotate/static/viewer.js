// One image: fitted, zoomed, moved, brighter, with more contrast.

const PIXELATED_FROM = 2; // screen pixels per image pixel
const LARGEST = 60;

export class Viewer {
  constructor(stage, picture, brightness, contrast) {
    Object.assign(this, { stage, picture, brightness, contrast });
    this.zoom = 1;
    this.x = this.y = 0;
    this.pointers = new Map();
    picture.addEventListener("load", () => this.fit());
    new ResizeObserver(() => this.fit()).observe(stage);
    stage.addEventListener("wheel", (event) => this.wheeled(event), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.pressed(event));
    stage.addEventListener("pointermove", (event) => this.moved(event));
    for (const kind of ["pointerup", "pointercancel"]) {
      stage.addEventListener(kind, (event) => this.pointers.delete(event.pointerId));
    }
    for (const slider of [brightness, contrast]) {
      slider.addEventListener("input", () => this.light());
    }
  }

  get base() {
    const { naturalWidth: width, naturalHeight: height } = this.picture;
    if (!width || !height) return 1;
    return Math.min(this.stage.clientWidth / width, this.stage.clientHeight / height);
  }

  fit() {
    this.zoom = 1;
    const scale = this.base;
    this.x = (this.stage.clientWidth - this.picture.naturalWidth * scale) / 2;
    this.y = (this.stage.clientHeight - this.picture.naturalHeight * scale) / 2;
    this.draw();
  }

  by(factor, atX = this.stage.clientWidth / 2, atY = this.stage.clientHeight / 2) {
    const zoom = Math.min(LARGEST, Math.max(1, this.zoom * factor));
    if (zoom === 1) {
      this.fit();
      return;
    }
    const change = zoom / this.zoom;
    this.x = atX - (atX - this.x) * change;
    this.y = atY - (atY - this.y) * change;
    this.zoom = zoom;
    this.draw();
  }

  draw() {
    const scale = this.base * this.zoom;
    this.picture.style.transform = `translate(${this.x}px, ${this.y}px) scale(${scale})`;
    this.picture.classList.toggle("enlarged", scale >= PIXELATED_FROM);
  }

  light(change = {}) {
    for (const [name, step] of Object.entries(change)) {
      this[name].value = Number(this[name].value) + step;
    }
    const { brightness, contrast } = this;
    this.picture.style.filter = `brightness(${brightness.value}%) contrast(${contrast.value}%)`;
  }

  wheeled(event) {
    event.preventDefault();
    const { left, top } = this.stage.getBoundingClientRect();
    this.by(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.clientX - left, event.clientY - top);
  }

  pressed(event) {
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
  }

  moved(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const other = [...this.pointers.values()].find((p) => p.pointerId !== event.pointerId);
    if (other) this.pinched(before, event, other);
    else if (this.zoom > 1) {
      this.x += event.clientX - before.clientX;
      this.y += event.clientY - before.clientY;
      this.draw();
    }
    this.pointers.set(event.pointerId, event);
  }

  pinched(before, now, other) {
    const apart = (p) => Math.hypot(p.clientX - other.clientX, p.clientY - other.clientY);
    const { left, top } = this.stage.getBoundingClientRect();
    const x = (now.clientX + other.clientX) / 2 - left;
    const y = (now.clientY + other.clientY) / 2 - top;
    this.by(apart(now) / Math.max(1, apart(before)), x, y);
  }
}
