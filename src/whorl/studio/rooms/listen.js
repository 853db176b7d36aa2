// What is said in a sound? Recorded here, dropped or chosen.

import { Written } from "./written.js";

export class Listen extends Written {
  saying = "What was said";

  constructor() {
    super({ name: "listen", title: "Listen", heading: "What is said?", verb: "Listen", tasks: ["automatic-speech-recognition"] });
  }
}
