/** Boxes: the list, adding one, and what can go wrong. */
import { texts } from './core.svelte';
import { said, type Said } from './errors';

export const boxes = texts({
  en: {
    yours: 'Your boxes',
    yoursHelp:
      'A box is a machine that runs the large model. Answers come from the one that is in use.',
    inUse: 'In use',
    use: 'Use',
    test: 'Test',
    testing: 'Testing…',
    rename: 'Rename',
    newName: 'New name',
    revoke: 'Revoke',
    thisMachine: 'On this machine, started by the app',
    certificate: (digits: string) => `Certificate ${digits}…`,
    keptSystem: 'Key in the system’s key store',
    keptFile: 'Key in a file that only you may read: this system has no key store',
    keptLost: 'The key of this box is lost. Pair it again.',
    answered: (ms: string, model: string, version: string) =>
      `Answers in ${ms} ms · ${model} · version ${version}`,
    confirm: (name: string) =>
      `Revoke ${name}? The box forgets this device, and this device the box.`,
    confirmYes: 'Revoke access',
    hereOnly: (name: string) =>
      `${name} cannot be told now. If you remove it here only, also run “tandem-edge devices revoke” on the box.`,
    hereOnlyYes: 'Remove here only',
    removed: (name: string) => `${name} is removed.`,
    paired: (name: string) => `Paired with ${name}.`,
    add: 'Add a box',
    addHelp:
      'On the box, run “tandem-edge pair”. It shows a code and a link, to be used once within five minutes.',
    place: 'Address, or link',
    placeHelp: 'Such as 192.168.1.20:7470, or the whole link from the box.',
    code: 'Code',
    codeHelp: 'Eight letters and digits. Not needed with a link.',
    pair: 'Pair',
    pairing: 'Pairing…',
    search: 'Look in this network',
    searching: 'Looking…',
    none: 'No box was found in this network. Its address works too.',
    scan: 'Scan the code',
    scanDenied: 'The camera may not be used. Allow it in the system’s settings, or type the code.',
    chosen: (name: string) => `Now type the code that ${name} shows.`,
    error: {
      certificate:
        'This box shows another certificate than when it was paired, so nothing was sent to it. Either its files were made anew, or another machine has taken its place. If you trust it, pair it again.',
      access: 'This box does not know this device any more. Pair it again to use it.',
      unreachable:
        'This box cannot be reached. Is it on, in this network, and is the edge running?',
      off: 'The local edge runs only while it is in use.',
    },
  },
  de: {
    yours: 'Ihre Boxen',
    yoursHelp:
      'Eine Box ist ein Rechner, auf dem das große Modell läuft. Antworten kommen von der Box in Gebrauch.',
    inUse: 'In Gebrauch',
    use: 'Verwenden',
    test: 'Testen',
    testing: 'Wird getestet…',
    rename: 'Umbenennen',
    newName: 'Neuer Name',
    revoke: 'Zugang aufheben',
    thisMachine: 'Auf diesem Rechner, von der App gestartet',
    certificate: (digits: string) => `Zertifikat ${digits}…`,
    keptSystem: 'Schlüssel im Schlüsselspeicher des Systems',
    keptFile:
      'Schlüssel in einer Datei, die nur Sie lesen dürfen: Dieses System hat keinen Schlüsselspeicher',
    keptLost: 'Der Schlüssel dieser Box ist verloren. Koppeln Sie sie neu.',
    answered: (ms: string, model: string, version: string) =>
      `Antwortet in ${ms} ms · ${model} · Version ${version}`,
    confirm: (name: string) =>
      `Zugang zu ${name} aufheben? Die Box vergisst dieses Gerät, und dieses Gerät die Box.`,
    confirmYes: 'Zugang aufheben',
    hereOnly: (name: string) =>
      `${name} ist gerade nicht erreichbar. Wenn Sie sie nur hier entfernen, führen Sie auf der Box auch „tandem-edge devices revoke“ aus.`,
    hereOnlyYes: 'Nur hier entfernen',
    removed: (name: string) => `${name} ist entfernt.`,
    paired: (name: string) => `Mit ${name} gekoppelt.`,
    add: 'Box hinzufügen',
    addHelp:
      'Führen Sie auf der Box „tandem-edge pair“ aus. Es zeigt einen Code und einen Link, einmal gültig, fünf Minuten lang.',
    place: 'Adresse oder Link',
    placeHelp: 'Etwa 192.168.1.20:7470, oder der ganze Link von der Box.',
    code: 'Code',
    codeHelp: 'Acht Buchstaben und Ziffern. Mit einem Link nicht nötig.',
    pair: 'Koppeln',
    pairing: 'Wird gekoppelt…',
    search: 'In diesem Netz suchen',
    searching: 'Wird gesucht…',
    none: 'In diesem Netz wurde keine Box gefunden. Ihre Adresse genügt auch.',
    scan: 'Code scannen',
    scanDenied:
      'Die Kamera darf nicht benutzt werden. Erlauben Sie es in den Einstellungen des Systems, oder geben Sie den Code ein.',
    chosen: (name: string) => `Geben Sie nun den Code ein, den ${name} zeigt.`,
    error: {
      certificate:
        'Diese Box zeigt ein anderes Zertifikat als beim Koppeln, darum wurde ihr nichts gesendet. Entweder wurden ihre Dateien neu angelegt, oder ein anderer Rechner hat ihren Platz eingenommen. Wenn Sie ihr vertrauen, koppeln Sie sie neu.',
      access: 'Diese Box kennt dieses Gerät nicht mehr. Koppeln Sie sie neu, um sie zu verwenden.',
      unreachable:
        'Diese Box ist nicht erreichbar. Ist sie an, in diesem Netz, und läuft die Edge?',
      off: 'Die lokale Edge läuft nur, solange sie in Gebrauch ist.',
    },
  },
  fr: {
    yours: 'Vos serveurs',
    yoursHelp:
      'Un serveur est une machine qui exécute le grand modèle. Les réponses viennent de celui en service.',
    inUse: 'En service',
    use: 'Utiliser',
    test: 'Tester',
    testing: 'Test en cours…',
    rename: 'Renommer',
    newName: 'Nouveau nom',
    revoke: 'Révoquer',
    thisMachine: 'Sur cette machine, lancé par l’application',
    certificate: (digits: string) => `Certificat ${digits}…`,
    keptSystem: 'Clé dans le trousseau du système',
    keptFile: 'Clé dans un fichier que vous seul pouvez lire : ce système n’a pas de trousseau',
    keptLost: 'La clé de ce serveur est perdue. Associez-le de nouveau.',
    answered: (ms: string, model: string, version: string) =>
      `Répond en ${ms} ms · ${model} · version ${version}`,
    confirm: (name: string) =>
      `Révoquer ${name} ? Le serveur oublie cet appareil, et cet appareil le serveur.`,
    confirmYes: 'Révoquer l’accès',
    hereOnly: (name: string) =>
      `${name} ne peut pas être prévenu. Si vous le retirez ici seulement, lancez aussi « tandem-edge devices revoke » sur le serveur.`,
    hereOnlyYes: 'Retirer ici seulement',
    removed: (name: string) => `${name} est retiré.`,
    paired: (name: string) => `Associé à ${name}.`,
    add: 'Ajouter un serveur',
    addHelp:
      'Sur le serveur, lancez « tandem-edge pair ». Il affiche un code et un lien, valables une fois pendant cinq minutes.',
    place: 'Adresse ou lien',
    placeHelp: 'Par exemple 192.168.1.20:7470, ou le lien entier du serveur.',
    code: 'Code',
    codeHelp: 'Huit lettres et chiffres. Inutile avec un lien.',
    pair: 'Associer',
    pairing: 'Association…',
    search: 'Chercher dans ce réseau',
    searching: 'Recherche…',
    none: 'Aucun serveur trouvé dans ce réseau. Son adresse suffit aussi.',
    scan: 'Scanner le code',
    scanDenied:
      'L’appareil photo n’est pas autorisé. Autorisez-le dans les réglages du système, ou saisissez le code.',
    chosen: (name: string) => `Saisissez maintenant le code affiché par ${name}.`,
    error: {
      certificate:
        'Ce serveur montre un autre certificat que lors de l’association ; rien ne lui a donc été envoyé. Soit ses fichiers ont été recréés, soit une autre machine a pris sa place. Si vous lui faites confiance, associez-le de nouveau.',
      access: 'Ce serveur ne connaît plus cet appareil. Associez-le de nouveau pour l’utiliser.',
      unreachable:
        'Ce serveur est injoignable. Est-il allumé, dans ce réseau, et l’edge fonctionne-t-elle ?',
      off: 'L’edge locale ne fonctionne que lorsqu’elle est en service.',
    },
  },
});

/** What went wrong, in the language of the window where there are words for it. */
export function boxProblem(code: string, text: string, detail: string | null = null): Said {
  const own = said(text, detail);
  if (!(code in boxes.error)) return own;
  return { message: boxes.error[code as keyof typeof boxes.error], detail: own.detail };
}
