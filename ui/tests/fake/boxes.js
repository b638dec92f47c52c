// The bundled box, one that was paired and does not answer, and one that can be found.
(() => {
  const { commands, sleep, status } = window.fake;
  const box = (id, change) => ({
    id,
    name: `Box ${id}`,
    bundled: false,
    active: false,
    address: 'wss://192.168.178.24:7470',
    certificate: '3f9a 41c7 08de 5b12',
    model: 'Qwen2.5 Coder 7B Instruct',
    kept: 'system',
    createdAt: 0,
    usedAt: null,
    ...change,
  });
  const boxes = [
    box(1, {
      name: 'This device',
      bundled: true,
      active: true,
      address: null,
      certificate: null,
      model: status.edge.model,
      kept: null,
    }),
    box(2, { name: 'Workshop under the roof, with the large card' }),
    box(3, { name: 'Office', kept: null, model: null }),
  ];
  const found = {
    name: 'Kitchen',
    model: 'Qwen2.5 Coder 7B Instruct',
    version: '0.1.0',
    address: 'wss://192.168.178.31:7470',
    certificate: '77b0 12aa c4e9 90fd',
  };
  const of = (id) => boxes.find((one) => one.id === id);

  // What a phone's camera sees, and whether it may.
  const camera = { allowed: 'granted', sees: 'tandem://192.168.178.31:7470/?code=ABCD-EFGH' };

  Object.assign(window.fake, { boxes, camera, found: [found] });
  Object.assign(commands, {
    'plugin:barcode-scanner|request_permissions': () => ({ camera: camera.allowed }),
    'plugin:barcode-scanner|scan': () => ({ content: camera.sees, format: 'QR_CODE' }),
    boxes_list: () => boxes,
    boxes_discover: () => sleep(50).then(() => window.fake.found),
    box_pair: ({ code }) => {
      if (code === 'AAAA-AAAA') throw { code: 'code', message: 'The code is not right.' };
      const made = box(boxes.length + 1, { ...found, kept: 'file' });
      boxes.push(made);
      return made;
    },
    box_choose: ({ id }) => {
      for (const one of boxes) one.active = one.id === id;
    },
    box_rename: ({ id, name }) => void (of(id).name = name),
    box_test: ({ id }) => {
      if (id !== 1)
        throw { code: 'offline', message: 'The box does not answer. Is it switched on?' };
      return { model: status.edge.model, version: '0.1.0', rttMs: 0.42 };
    },
    box_remove: ({ id }) => void boxes.splice(boxes.indexOf(of(id)), 1),
  });
})();
