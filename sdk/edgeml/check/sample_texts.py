"""Real sentences for text models whose operator gives no data: parity and golden cases need real input.

They are short to long, of several fields and languages, with numbers and marks. Nothing is calibrated on them.
"""

from __future__ import annotations

from typing import Final

SENTENCES: Final[tuple[str, ...]] = (
    "The ventilator alarm sounded twice during the night shift.",
    "Soil moisture fell below fifteen percent in the northern field.",
    "Replace the filter cartridge every 500 hours, or sooner if the differential pressure exceeds 0.8 bar.",
    "The patient was discharged yesterday with a prescription for amoxicillin 500 mg three times a day.",
    "Which of the two pumps has been running without a break since Monday morning?",
    "I love how quickly the new scanner reads a torn label!",
    "The delivery arrived three days late and half of the boxes were wet.",
    "Der Techniker hat das Ventil gestern geprüft und keinen Fehler gefunden.",
    "El sensor de temperatura dejó de responder a las 14:32.",
    "La récolte de cette année sera meilleure que celle de l'année dernière.",
    "Turn the machine off before you open the cover.",
    "A small dog ran across the wet street and hid under a parked car.",
    "Interest rates were left unchanged, although two members of the board voted for a cut.",
    " ".join(
        (
            "The committee, which had met only twice since its foundation, could not agree on who should write",
            "the report, and so the question of the budget was put off until the members had heard from the auditors.",
        )
    ),
    "Bearing 4 shows a vibration of 7.1 mm/s at 50 Hz; the limit is 4.5 mm/s.",
    "She plays the violin in an orchestra and teaches mathematics at the local school.",
    "Can the camera tell a ripe tomato from an unripe one in poor light?",
    "No fault was found, the unit was cleaned, tested under load for two hours and returned to service.",
    "Water boils at a lower temperature in the mountains because the air pressure is lower there.",
    " ".join(
        (
            "Please call the front desk at extension 2045 if nobody has come to collect the samples by noon,",
            "since they must not stand at room temperature for more than four hours",
            "before they are analysed in the laboratory.",
        )
    ),
)
