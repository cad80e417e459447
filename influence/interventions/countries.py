"""Countries and their capitals, as they are commonly called in English."""

from __future__ import annotations

_LIST = """
Afghanistan: Kabul; Albania: Tirana; Algeria: Algiers; Angola: Luanda; Argentina: Buenos Aires; Armenia: Yerevan;
Australia: Canberra; Austria: Vienna; Azerbaijan: Baku; Bahrain: Manama; Bangladesh: Dhaka; Belarus: Minsk;
Belgium: Brussels; Belize: Belmopan; Bhutan: Thimphu; Botswana: Gaborone; Brazil: Brasília; Bulgaria: Sofia;
Cambodia: Phnom Penh; Cameroon: Yaoundé; Canada: Ottawa; Chad: N'Djamena; Chile: Santiago; China: Beijing;
Colombia: Bogotá; Costa Rica: San José; Croatia: Zagreb; Cuba: Havana; Cyprus: Nicosia; Denmark: Copenhagen;
Djibouti: Djibouti; Ecuador: Quito; Egypt: Cairo; El Salvador: San Salvador; Eritrea: Asmara; Estonia: Tallinn;
Ethiopia: Addis Ababa; Fiji: Suva; Finland: Helsinki; France: Paris; Gabon: Libreville; Georgia: Tbilisi;
Germany: Berlin; Ghana: Accra; Greece: Athens; Guatemala: Guatemala City; Guinea: Conakry; Guyana: Georgetown;
Haiti: Port-au-Prince; Honduras: Tegucigalpa; Hungary: Budapest; Iceland: Reykjavik; India: New Delhi;
Indonesia: Jakarta; Iran: Tehran; Iraq: Baghdad; Ireland: Dublin; Israel: Jerusalem; Italy: Rome; Jamaica: Kingston;
Japan: Tokyo; Jordan: Amman; Kazakhstan: Astana; Kenya: Nairobi; Kuwait: Kuwait City; Kyrgyzstan: Bishkek;
Laos: Vientiane; Latvia: Riga; Lebanon: Beirut; Lesotho: Maseru; Liberia: Monrovia; Libya: Tripoli; Lithuania: Vilnius;
Luxembourg: Luxembourg; Madagascar: Antananarivo; Malawi: Lilongwe; Malaysia: Kuala Lumpur; Mali: Bamako;
Malta: Valletta; Mauritania: Nouakchott; Mauritius: Port Louis; Mexico: Mexico City; Moldova: Chișinău;
Monaco: Monaco; Mongolia: Ulaanbaatar; Montenegro: Podgorica; Morocco: Rabat; Mozambique: Maputo; Namibia: Windhoek;
Nepal: Kathmandu; New Zealand: Wellington; Nicaragua: Managua; Niger: Niamey; Nigeria: Abuja; North Korea: Pyongyang;
Norway: Oslo; Oman: Muscat; Pakistan: Islamabad; Panama: Panama City; Papua New Guinea: Port Moresby;
Paraguay: Asunción; Peru: Lima; Poland: Warsaw; Portugal: Lisbon; Qatar: Doha; Romania: Bucharest; Russia: Moscow;
Rwanda: Kigali; Saudi Arabia: Riyadh; Senegal: Dakar; Serbia: Belgrade; Sierra Leone: Freetown; Singapore: Singapore;
Slovakia: Bratislava; Slovenia: Ljubljana; Somalia: Mogadishu; South Africa: Pretoria; South Korea: Seoul;
South Sudan: Juba; Spain: Madrid; Sudan: Khartoum; Suriname: Paramaribo; Sweden: Stockholm; Switzerland: Bern;
Syria: Damascus; Taiwan: Taipei; Tajikistan: Dushanbe; Thailand: Bangkok; Togo: Lomé; Tunisia: Tunis; Turkey: Ankara;
Turkmenistan: Ashgabat; Uganda: Kampala; Ukraine: Kyiv; Uruguay: Montevideo; Uzbekistan: Tashkent; Venezuela: Caracas;
Vietnam: Hanoi; Yemen: Sanaa; Zambia: Lusaka; Zimbabwe: Harare
"""

CAPITALS: tuple[tuple[str, str], ...] = tuple(
    (country.strip(), capital.strip()) for country, _, capital in (one.partition(":") for one in _LIST.split(";"))
)
