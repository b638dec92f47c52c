/**
 * What the core most often refuses, by its code. The core says it in English, with its own details;
 * a code that is not here stays English.
 */
import { language, type Language } from './core.svelte';

type Errors = Partial<Record<string, string>>;

const errors: Record<Exclude<Language, 'en'>, Errors> = {
  de: {
    benchmark_running:
      'Ein Benchmark läuft. Warten Sie sein Ende ab, oder brechen Sie ihn unter „Messwerte“ ab.',
    busy: 'Es wird noch eine Antwort geschrieben. Halten Sie sie an, oder warten Sie ihr Ende ab.',
    context:
      'Dafür reicht der Kontext der Modelle nicht. Machen Sie in einer neuen Unterhaltung weiter, oder kürzen Sie die Nachricht.',
    disk_full:
      'Der Datenträger ist voll. Schaffen Sie Platz, und versuchen Sie es noch einmal. Was gespeichert war, ist sicher.',
    downloading: 'Dieses Modell wird gerade geladen. Halten Sie das Laden zuerst an.',
    drafter: 'Das kleine Modell ist noch nicht bereit.',
    empty: 'Es gibt nichts zu senden.',
    long: 'Diese Nachricht ist länger, als ein Modell lesen kann.',
    missing: 'Diese Nachricht gibt es nicht mehr.',
    read_only:
      'In die Datenbank kann nicht geschrieben werden. Erlauben Sie diesem Programm, in sie und ihren Ordner zu schreiben.',
  },
  fr: {
    benchmark_running:
      'Un test de performance est en cours. Attendez sa fin, ou annulez-le dans « Mesures ».',
    busy: 'Une réponse est encore en cours d’écriture. Arrêtez-la, ou attendez sa fin.',
    context:
      'Le contexte des modèles n’y suffit pas. Continuez dans une nouvelle conversation, ou raccourcissez le message.',
    disk_full:
      'Le disque est plein. Libérez de la place et réessayez. Ce qui était enregistré est en sécurité.',
    downloading: 'Ce modèle est en cours de téléchargement. Suspendez-le d’abord.',
    drafter: 'Le petit modèle n’est pas encore prêt.',
    empty: 'Il n’y a rien à envoyer.',
    long: 'Ce message est plus long que ce qu’un modèle peut lire.',
    missing: 'Ce message n’existe plus.',
    read_only:
      'La base de données ne peut pas être modifiée. Autorisez ce programme à écrire dans son fichier et son dossier.',
  },
};

/** What to say of an error: in the window's language if there are words for it. */
export function errorText(code: string, message: string): string {
  const { current } = language;
  return (current === 'en' ? undefined : errors[current][code]) ?? message;
}
