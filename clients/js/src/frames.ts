/**
 * One turn of work for everything that changed: a frame of the screen where there is one, else the
 * next macro-task. A page in the background gets no frames, so a timer stands in for them.
 */

import { platform } from "./platform.js";

const HIDDEN_PAGE_MS = 100;

/** Runs `work` once in the next frame, however often it is asked for before that. */
export class Frames {
  #isDue = false;

  constructor(private readonly work: () => void) {}

  request(): void {
    if (this.#isDue) return;
    this.#isDue = true;
    const run = () => {
      if (!this.#isDue) return;
      this.#isDue = false;
      this.work();
    };
    if (platform.requestAnimationFrame) {
      platform.requestAnimationFrame(run);
      setTimeout(run, HIDDEN_PAGE_MS);
    } else {
      setTimeout(run, 0);
    }
  }
}
