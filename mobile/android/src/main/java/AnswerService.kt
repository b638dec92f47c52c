package app.tandem.mobile

import android.app.Notification
import android.app.NotificationChannel
import android.app.NotificationManager
import android.app.PendingIntent
import android.app.Service
import android.content.Context
import android.content.Intent
import android.content.pm.ServiceInfo
import android.os.Build
import android.os.IBinder
import android.os.PowerManager
import androidx.core.app.NotificationCompat
import androidx.core.app.ServiceCompat
import androidx.core.content.ContextCompat

/** Keeps the app running while a long answer is written and something else is on the screen. */
class AnswerService : Service() {
  private var lock: PowerManager.WakeLock? = null

  override fun onBind(intent: Intent?): IBinder? = null

  override fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int {
    val channel = intent?.getStringExtra(CHANNEL) ?: DEFAULT
    val title = intent?.getStringExtra(TITLE) ?: DEFAULT
    val type =
      if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) ServiceInfo.FOREGROUND_SERVICE_TYPE_DATA_SYNC
      else 0
    ServiceCompat.startForeground(this, ID, notification(channel, title), type)
    running = this
    if (!wanted) {
      stopSelf()
      return START_NOT_STICKY
    }
    if (lock == null) {
      // With the screen off the processor would sleep. The limit is for an end that never comes.
      val power = getSystemService(Context.POWER_SERVICE) as PowerManager
      lock = power.newWakeLock(PowerManager.PARTIAL_WAKE_LOCK, "tandem:answer").apply {
        acquire(LONGEST_MS)
      }
    }
    // If the system ends the app there is no answer left to go on with.
    return START_NOT_STICKY
  }

  private fun notification(channel: String, title: String): Notification {
    val manager = getSystemService(Context.NOTIFICATION_SERVICE) as NotificationManager
    val importance = NotificationManager.IMPORTANCE_LOW
    manager.createNotificationChannel(NotificationChannel(DEFAULT, channel, importance))
    val open = packageManager.getLaunchIntentForPackage(packageName)?.let {
      PendingIntent.getActivity(this, 0, it, PendingIntent.FLAG_IMMUTABLE)
    }
    return NotificationCompat.Builder(this, DEFAULT)
      .setSmallIcon(android.R.drawable.stat_notify_sync)
      .setContentTitle(title)
      .setContentIntent(open)
      .setOngoing(true)
      .setProgress(0, 0, true)
      .build()
  }

  /** Android 15 ends such services after some hours a day. */
  override fun onTimeout(startId: Int, fgsType: Int) {
    stopSelf()
  }

  override fun onTaskRemoved(rootIntent: Intent?) {
    stopSelf()
  }

  override fun onDestroy() {
    running = null
    lock?.let { if (it.isHeld) it.release() }
    lock = null
    super.onDestroy()
  }

  companion object {
    private const val DEFAULT = "tandem"
    private const val CHANNEL = "channel"
    private const val TITLE = "title"
    private const val ID = 1
    private const val LONGEST_MS = 15L * 60 * 1000

    // A service that is ended before it has called startForeground takes the app with it. So it is told
    // to end only when it has, and otherwise sees that nobody wants it any more.
    @Volatile private var wanted = false
    @Volatile private var running: AnswerService? = null

    fun begin(context: Context, channel: String, title: String) {
      val intent = Intent(context, AnswerService::class.java)
      intent.putExtra(CHANNEL, channel).putExtra(TITLE, title)
      wanted = true
      ContextCompat.startForegroundService(context, intent)
    }

    fun end() {
      wanted = false
      running?.stopSelf()
    }
  }
}
