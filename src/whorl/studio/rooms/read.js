// What is written on an image?

import { Written } from "./written.js";

export class Read extends Written {
  saying = "What it says";

  constructor() {
    super({ name: "read", title: "Read", heading: "What is to be read?", verb: "Read", tasks: ["image-to-text"] });
  }
}
