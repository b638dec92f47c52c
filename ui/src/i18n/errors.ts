/**
 * What the core most often refuses, by its code. The core says it in English, with its own details;
 * a code that is not here stays English.
 */
import { language, type Language } from './core.svelte';

type Errors = Partial<Record<string, string>>;

const errors: Record<Exclude<Language, 'en'>, Errors> = {
  de: {
    benchmark_running: 'Ein Benchmark läuft. Warten Sie sein Ende ab, oder brechen Sie ihn ab.',
    cancelled: 'Es wurde abgebrochen.',
    checksum:
      'Das Heruntergeladene ist nicht die richtige Datei und wurde gelöscht. Laden Sie sie noch einmal.',
    busy: 'Es wird noch eine Antwort geschrieben. Halten Sie sie an, oder warten Sie ihr Ende ab.',
    context:
      'Dafür reicht der Kontext der Modelle nicht. Machen Sie in einer neuen Unterhaltung weiter, oder kürzen Sie die Nachricht.',
    context_message: 'Die Nachricht ist länger, als die Modelle lesen können. Kürzen Sie sie.',
    disk_full:
      'Der Datenträger ist voll. Schaffen Sie Platz, und versuchen Sie es noch einmal. Was gespeichert war, ist sicher.',
    downloading: 'Dieses Modell wird gerade geladen. Halten Sie das Laden zuerst an.',
    drafter: 'Das kleine Modell ist noch nicht bereit.',
    empty: 'Es gibt nichts zu senden.',
    hub: 'Das Modell konnte nicht geladen werden: Keine Quelle war erreichbar. Prüfen Sie die Verbindung, und versuchen Sie es noch einmal; was da ist, bleibt.',
    import_foreign:
      'Das ist keine Datei mit Unterhaltungen aus Tandem. Es wurde nichts importiert.',
    import_unreadable:
      'Diese Datei ist keine Unterhaltung, die Tandem lesen kann. Es wurde nichts importiert.',
    in_use: 'Dieses Modell wird benutzt. Wählen Sie zuerst ein anderes Paar.',
    long: 'Diese Nachricht ist länger, als ein Modell lesen kann.',
    missing: 'Diese Nachricht gibt es nicht mehr.',
    read_only:
      'In die Datenbank kann nicht geschrieben werden. Erlauben Sie diesem Programm, in sie und ihren Ordner zu schreiben.',
  },
  fr: {
    benchmark_running: 'Un test de performance est en cours. Attendez sa fin, ou annulez-le.',
    cancelled: 'C’est annulé.',
    checksum:
      'Ce qui a été téléchargé n’est pas le bon fichier et a été supprimé. Téléchargez-le à nouveau.',
    busy: 'Une réponse est encore en cours d’écriture. Arrêtez-la, ou attendez sa fin.',
    context:
      'Le contexte des modèles n’y suffit pas. Continuez dans une nouvelle conversation, ou raccourcissez le message.',
    context_message:
      'Ce message est plus long que ce que les modèles peuvent lire. Raccourcissez-le.',
    disk_full:
      'Le disque est plein. Libérez de la place et réessayez. Ce qui était enregistré est en sécurité.',
    downloading: 'Ce modèle est en cours de téléchargement. Suspendez-le d’abord.',
    drafter: 'Le petit modèle n’est pas encore prêt.',
    empty: 'Il n’y a rien à envoyer.',
    hub: 'Le modèle n’a pas pu être téléchargé : aucune source n’était joignable. Vérifiez la connexion et réessayez ; ce qui est là reste.',
    import_foreign: 'Ce n’est pas un fichier de conversations de Tandem. Rien n’a été importé.',
    import_unreadable:
      'Ce fichier n’est pas une conversation que Tandem sait lire. Rien n’a été importé.',
    in_use: 'Ce modèle est utilisé. Choisissez d’abord une autre paire.',
    long: 'Ce message est plus long que ce qu’un modèle peut lire.',
    missing: 'Ce message n’existe plus.',
    read_only:
      'La base de données ne peut pas être modifiée. Autorisez ce programme à écrire dans son fichier et son dossier.',
  },
};

/** Words for a person, and what the system said, for whoever wants to know more. */
export interface Said {
  /** What happened and what to do next. */
  message: string;
  detail: string | null;
}

/** The core's text as sentences. What it says in further lines is for experts. */
export function said(text: string, detail: string | null = null): Said {
  const [first = '', ...more] = text.trim().split('\n');
  const rest = [more.join('\n').trim(), detail ?? ''].filter(Boolean).join('\n');
  // A name at the start, such as a file's, is not to be changed.
  const begun = /^\p{Ll}+[ ,;:]/u.test(first) ? first[0]!.toUpperCase() + first.slice(1) : first;
  const message = /[.!?…:]$/.test(begun) || !begun ? begun : `${begun}.`;
  return { message, detail: rest || null };
}

/** What to say of an error: in the window's language if there are words for it. */
export function errorText(code: string, text: string, detail: string | null = null): Said {
  const { current } = language;
  const words = current === 'en' ? undefined : errors[current][code];
  const own = said(text, detail);
  if (!words) return own;
  return { message: words, detail: [own.message, own.detail].filter(Boolean).join('\n') };
}
