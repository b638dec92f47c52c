//! The boxes that this device knows. Their tokens are not here.

use super::{Store, StoreError, found};
use crate::now_ms;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use tandem_protocol::{CertificateId, clean_name};

/// An edge that this device knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoxRow {
    /// Its row.
    pub id: i64,
    /// Its name; no two have the same.
    pub name: String,
    /// What pairing gave; `None` is the edge that the app starts on this machine.
    pub paired: Option<PairedBox>,
    /// Its model, as it was last seen.
    pub model: Option<String>,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// When it was last chosen or tested.
    pub used_at: Option<i64>,
}

/// How a paired box is reached and known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairedBox {
    /// `HOST:PORT`.
    pub address: String,
    /// Its certificate.
    pub certificate: CertificateId,
    /// This device's id in the edge's list; the token is kept under it.
    pub device: String,
}

impl Store {
    /// All boxes: the bundled one, then the others in the order of their pairing.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn boxes(&self) -> Result<Vec<BoxRow>, StoreError> {
        let rows =
            sqlx::query("SELECT * FROM boxes ORDER BY kind, id").fetch_all(&self.pool).await?;
        rows.iter().map(read).collect()
    }

    /// One box.
    ///
    /// # Errors
    /// If there is none, or the database fails.
    pub async fn one_box(&self, id: i64) -> Result<BoxRow, StoreError> {
        let row = sqlx::query("SELECT * FROM boxes WHERE id = ?")
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        read(&row.ok_or(StoreError::Missing("box"))?)
    }

    /// A new box; or one paired again, known by its certificate or its address, which keeps its row
    /// and its name. Returns it and the id under which its old token is kept.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn add_box(
        &self,
        name: &str,
        paired: &PairedBox,
        model: &str,
    ) -> Result<(BoxRow, Option<String>), StoreError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let rows = sqlx::query("SELECT * FROM boxes").fetch_all(&mut *transaction).await?;
        let known = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let certificate = paired.certificate.0.as_slice();
        let of = |b: &&BoxRow, same: fn(&PairedBox, &PairedBox) -> bool| {
            b.paired.as_ref().is_some_and(|p| same(p, paired))
        };
        // A box may have moved, or stand where it stood with a new certificate.
        let old = known
            .iter()
            .find(|b| of(b, |a, b| a.certificate == b.certificate))
            .or_else(|| known.iter().find(|b| of(b, |a, b| a.address == b.address)));
        let id = if let Some(old) = old {
            sqlx::query(
                "UPDATE boxes SET address = ?, certificate = ?, device = ?, model = ? WHERE id = ?",
            )
            .bind(&paired.address)
            .bind(certificate)
            .bind(&paired.device)
            .bind(model)
            .bind(old.id)
            .execute(&mut *transaction)
            .await?;
            old.id
        } else {
            let wanted = Some(clean_name(name)).filter(|n| !n.is_empty());
            let wanted = wanted.unwrap_or_else(|| paired.address.clone());
            let taken = |name: &str| known.iter().any(|b| b.name.eq_ignore_ascii_case(name));
            let mut name = wanted.clone();
            let mut number = 2;
            while taken(&name) {
                name = format!("{wanted} {number}");
                number += 1;
            }
            sqlx::query(
                "INSERT INTO boxes (kind, name, address, certificate, device, model, created_at)
                 VALUES ('paired', ?, ?, ?, ?, ?, ?)",
            )
            .bind(name)
            .bind(&paired.address)
            .bind(certificate)
            .bind(&paired.device)
            .bind(model)
            .bind(now_ms())
            .execute(&mut *transaction)
            .await?
            .last_insert_rowid()
        };
        transaction.commit().await?;
        let before = old.and_then(|b| b.paired.as_ref()).map(|p| p.device.clone());
        Ok((self.one_box(id).await?, before))
    }

    /// Gives a box another name.
    ///
    /// # Errors
    /// If the name is empty or taken, there is no such box, or the database fails.
    pub async fn rename_box(&self, id: i64, name: &str) -> Result<(), StoreError> {
        let name = clean_name(name);
        if name.is_empty() {
            return Err(StoreError::Settings("a box needs a name".into()));
        }
        let done = sqlx::query("UPDATE boxes SET name = ? WHERE id = ?")
            .bind(&name)
            .bind(id)
            .execute(&self.pool)
            .await;
        match done {
            Ok(done) => found(done.rows_affected(), "box"),
            Err(sqlx::Error::Database(e)) if e.is_unique_violation() => {
                Err(StoreError::Settings(format!("another box is already called {name}")))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Forgets a paired box.
    ///
    /// # Errors
    /// If there is no such box, or the database fails.
    pub async fn delete_box(&self, id: i64) -> Result<(), StoreError> {
        let done = sqlx::query("DELETE FROM boxes WHERE id = ? AND kind = 'paired'")
            .bind(id)
            .execute(&self.pool)
            .await?;
        found(done.rows_affected(), "box")
    }

    /// Notes that a box is used now, and with which model.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn box_used(&self, id: i64, model: Option<&str>) -> Result<(), StoreError> {
        sqlx::query("UPDATE boxes SET used_at = ?, model = coalesce(?, model) WHERE id = ?")
            .bind(now_ms())
            .bind(model)
            .bind(id)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

fn read(row: &SqliteRow) -> Result<BoxRow, StoreError> {
    let address: Option<String> = row.try_get("address")?;
    let certificate: Option<Vec<u8>> = row.try_get("certificate")?;
    let device: Option<String> = row.try_get("device")?;
    let certificate = certificate.and_then(|c| c.try_into().ok()).map(CertificateId);
    let paired = match (address, certificate, device) {
        (Some(address), Some(certificate), Some(device)) => {
            Some(PairedBox { address, certificate, device })
        }
        _ => None,
    };
    Ok(BoxRow {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        paired,
        model: row.try_get("model")?,
        created_at: row.try_get("created_at")?,
        used_at: row.try_get("used_at")?,
    })
}
