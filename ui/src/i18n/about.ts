/** The installation, licences, notes outside the window. */
import { texts } from './core.svelte';

export const about = texts({
  en: {
    title: 'About Tandem',
    version: (version: string) => `Version ${version}, Apache-2.0`,
    what: 'A small model on this device drafts, a large one on your box checks: its words, sooner.',
    local: 'What you write stays on this device and your own boxes.',
    copy: 'Copy diagnostics',
    copied: 'Diagnostics copied.',
    copyHelp:
      'Versions, models, settings and the end of the log file, for a report of a problem. Nothing from your chats.',
    licences: (n: string) => `Licences of ${n} packages`,
    find: 'Find a package',
    none: 'No package has this name.',
    ended: 'Your answer is ready.',
    answers: 'Answers',
    writing: 'An answer is being written',
    failed: 'Your answer broke off.',
  },
  de: {
    title: 'Über Tandem',
    version: (version: string) => `Version ${version}, Apache-2.0`,
    what: 'Ein kleines Modell auf diesem Gerät entwirft, ein großes auf Ihrer Box prüft: dessen Worte, früher.',
    local: 'Was Sie schreiben, bleibt auf diesem Gerät und Ihren eigenen Boxen.',
    copy: 'Diagnose kopieren',
    copied: 'Diagnose kopiert.',
    copyHelp:
      'Versionen, Modelle, Einstellungen und das Ende der Protokolldatei, um ein Problem zu melden. Nichts aus Ihren Unterhaltungen.',
    licences: (n: string) => `Lizenzen von ${n} Paketen`,
    find: 'Ein Paket finden',
    none: 'Kein Paket heißt so.',
    ended: 'Ihre Antwort ist fertig.',
    answers: 'Antworten',
    writing: 'Eine Antwort wird geschrieben',
    failed: 'Ihre Antwort ist abgebrochen.',
  },
  fr: {
    title: 'À propos de Tandem',
    version: (version: string) => `Version ${version}, Apache-2.0`,
    what: 'Un petit modèle sur cet appareil rédige, un grand sur votre boîtier vérifie : ses mots, plus tôt.',
    local: 'Ce que vous écrivez reste sur cet appareil et vos propres boîtiers.',
    copy: 'Copier le diagnostic',
    copied: 'Diagnostic copié.',
    copyHelp:
      'Versions, modèles, réglages et fin du journal, pour signaler un problème. Rien de vos conversations.',
    licences: (n: string) => `Licences de ${n} paquets`,
    find: 'Chercher un paquet',
    none: 'Aucun paquet ne porte ce nom.',
    ended: 'Votre réponse est prête.',
    answers: 'Réponses',
    writing: 'Une réponse s’écrit',
    failed: 'Votre réponse s’est interrompue.',
  },
});
