"""Text that curation must throw away: pages in languages the system does not serve, and advertising in those it does.

FOREIGN sentences were written for this file; {n} and {m} are names, so that two pages in one language are no near-duplicates.
SPAM holds, per language, the words an advert repeats and the slogans it shouts.
"""

from __future__ import annotations

FOREIGN = {
    "nl": (
        "Gisteren hebben {n} en {m} samen het oude museum bezocht.", "Het weer in dit land is vaak nat en koud, zegt {n}.",
        "{m} woont met zijn ouders in een klein huis aan de gracht.",
        "Wij zouden graag nog wat langer willen blijven, schreef {n}.",
        "Niemand weet waarom {m} zijn fiets niet heeft teruggebracht.", "Volgende week gaat {n} met de trein naar het noorden.",
        "{n} heeft altijd veel te vertellen over haar werk met {m}.", "Zou je {m} willen vragen of het winkeltje nog open is?",
        "De kinderen van {n} spelen 's middags meestal buiten.",
        "Na het eten maakten {n} en {m} nog een wandeling door de duinen.",
    ),
    "pl": (
        "Wczoraj {n} i {m} zwiedzali razem stare muzeum.", "Pogoda jest dzisiaj bardzo zła, powiedziała {n}.",
        "{m} mieszka z rodzicami w małym domu nad rzeką.", "Chcielibyśmy zostać tutaj trochę dłużej, napisała {n}.",
        "Nikt nie wie, dlaczego {m} nie oddał jeszcze roweru.", "W przyszłym tygodniu {n} pojedzie pociągiem na północ.",
        "{n} zawsze ma dużo do opowiedzenia o swojej pracy z {m}.", "Czy możesz zapytać, czy {m} już wrócił ze sklepu?",
        "Dzieci, które zna {n}, bawią się po południu na dworze.", "Po obiedzie {n} i {m} poszli jeszcze na długi spacer.",
    ),
    "sv": (
        "Igår besökte {n} och {m} det gamla museet tillsammans.", "Vädret är mycket dåligt idag, säger {n}.",
        "{m} bor med sina föräldrar i ett litet hus vid sjön.", "Vi skulle gärna vilja stanna lite längre, skrev {n}.",
        "Ingen vet varför {m} inte har lämnat tillbaka cykeln.", "Nästa vecka åker {n} tåg till norra delen av landet.",
        "{n} har alltid mycket att berätta om sitt arbete med {m}.", "Kan du fråga om {m} redan har kommit hem från affären?",
        "Barnen som {n} känner leker utomhus på eftermiddagarna.", "Efter middagen gick {n} och {m} en lång promenad i skogen.",
    ),
    "fi": (
        "Eilen {n} ja {m} kävivät yhdessä vanhassa museossa.", "Sää on tänään todella huono, sanoo {n}.",
        "{m} asuu vanhempiensa kanssa pienessä talossa järven rannalla.",
        "Haluaisimme jäädä tänne vielä hetkeksi, kirjoitti {n}.",
        "Kukaan ei tiedä, miksi {m} ei ole palauttanut polkupyörää.", "Ensi viikolla {n} matkustaa junalla pohjoiseen.",
        "{n} kertoo aina paljon siitä, mitä {m} on töissä tehnyt.", "Voisitko kysyä, onko {m} jo tullut kaupasta kotiin?",
        "Lapset, jotka {n} tuntee, leikkivät iltapäivisin ulkona.",
        "Päivällisen jälkeen {n} ja {m} lähtivät pitkälle kävelylle metsään.",
    ),
    "tr": (
        "Dün {n} ve {m} birlikte eski müzeyi gezdiler.", "Bugün hava çok kötü, diye söyledi {n}.",
        "{m} ailesiyle birlikte nehrin kıyısında küçük bir evde oturuyor.", "Burada biraz daha kalmak isterdik, diye yazdı {n}.",
        "{m} bisikleti neden geri getirmedi, kimse bilmiyor.", "Gelecek hafta {n} trenle kuzeye gidecek.",
        "{n} işi hakkında her zaman çok şey anlatır, {m} de dinler.", "Acaba {m} alışverişten döndü mü, sorabilir misin?",
        "Çocuklar öğleden sonra {n} ile dışarıda oynuyorlar.", "Yemekten sonra {n} ve {m} ormanda uzun bir yürüyüş yaptılar.",
    ),
    "cs": (
        "Včera {n} a {m} spolu navštívili staré muzeum.", "Počasí je dnes velmi špatné, řekla {n}.",
        "{m} bydlí s rodiči v malém domě u řeky.", "Chtěli bychom tady ještě chvíli zůstat, napsala {n}.",
        "Nikdo neví, proč {m} ještě nevrátil kolo.", "Příští týden pojede {n} vlakem na sever.",
        "{n} má vždycky co vyprávět o své práci a {m} poslouchá.", "Můžeš se zeptat, jestli už {m} přišel z obchodu?",
        "Děti, které {n} zná, si odpoledne hrají venku.", "Po obědě šli {n} a {m} ještě na dlouhou procházku do lesa.",
    ),
    "ro": (
        "Ieri {n} și {m} au vizitat împreună muzeul cel vechi.", "Vremea este foarte urâtă astăzi, a spus {n}.",
        "{m} locuiește cu părinții într-o casă mică lângă râu.", "Ne-ar plăcea să mai rămânem puțin aici, a scris {n}.",
        "Nimeni nu știe de ce {m} nu a adus înapoi bicicleta.", "Săptămâna viitoare {n} va merge cu trenul spre nord.",
        "{n} are întotdeauna multe de povestit despre munca sa cu {m}.", "Poți să întrebi dacă {m} s-a întors de la magazin?",
        "Copiii pe care îi cunoaște {n} se joacă afară după-amiaza.",
        "După masă {n} și {m} au făcut o plimbare lungă prin pădure.",
    ),
    "hu": (
        "Tegnap {n} és {m} együtt látogatták meg a régi múzeumot.", "Ma nagyon rossz az idő, mondta {n}.",
        "{m} a szüleivel lakik egy kis házban a folyó mellett.", "Szívesen maradnánk még egy kicsit, írta {n}.",
        "Senki sem tudja, miért nem hozta vissza {m} a kerékpárt.", "Jövő héten {n} vonattal utazik északra.",
        "{n} mindig sokat mesél a munkájáról, és {m} figyel.", "Megkérdeznéd, hogy {m} hazajött-e már a boltból?",
        "A gyerekek, akiket {n} ismer, délután kint játszanak.", "Ebéd után {n} és {m} hosszú sétát tettek az erdőben.",
    ),
    "id": (
        "Kemarin {n} dan {m} pergi bersama ke museum yang sudah tua.", "Cuaca hari ini sangat buruk, kata {n}.",
        "{m} tinggal bersama orang tuanya di sebuah rumah kecil di tepi sungai.",
        "Kami ingin tinggal di sini lebih lama lagi, tulis {n}.",
        "Tidak ada yang tahu mengapa {m} belum mengembalikan sepeda itu.", "Minggu depan {n} akan naik kereta api ke utara.",
        "{n} selalu bercerita banyak tentang pekerjaannya dengan {m}.",
        "Bisakah kamu bertanya apakah {m} sudah pulang dari toko?",
        "Anak-anak yang dikenal {n} biasanya bermain di luar pada sore hari.",
        "Setelah makan malam {n} dan {m} berjalan jauh di hutan.",
    ),
    "vi": (
        "Hôm qua {n} và {m} đã cùng nhau đi thăm bảo tàng cũ.", "Thời tiết hôm nay rất xấu, {n} nói.",
        "{m} sống với cha mẹ trong một ngôi nhà nhỏ bên bờ sông.", "Chúng tôi muốn ở lại đây lâu hơn một chút, {n} viết.",
        "Không ai biết tại sao {m} vẫn chưa trả lại chiếc xe đạp.", "Tuần sau {n} sẽ đi tàu hỏa lên phía bắc.",
        "{n} luôn có nhiều chuyện để kể về công việc với {m}.", "Bạn có thể hỏi xem {m} đã đi chợ về chưa không?",
        "Những đứa trẻ mà {n} quen thường chơi ngoài trời vào buổi chiều.", "Sau bữa tối {n} và {m} đi dạo rất lâu trong rừng.",
    ),
    "ru": (
        "Вчера {n} и {m} вместе ходили в старый музей.", "Сегодня очень плохая погода, сказала {n}.",
        "{m} живёт с родителями в маленьком доме у реки.", "Мы хотели бы остаться здесь ещё немного, написала {n}.",
        "Никто не знает, почему {m} не вернул велосипед.", "На следующей неделе {n} поедет на поезде на север.",
        "{n} всегда много рассказывает о своей работе, а {m} слушает.", "Ты можешь спросить, пришёл ли {m} из магазина?",
        "Дети, которых знает {n}, днём обычно играют на улице.", "После обеда {n} и {m} долго гуляли по лесу.",
    ),
    "ja": (
        "昨日、{n}と{m}は一緒に古い博物館へ行きました。", "今日は天気がとても悪いですね、と{n}は言いました。",
        "{m}は両親と一緒に川のそばの小さな家に住んでいます。", "もう少しここに残りたいです、と{n}は手紙に書きました。",
        "{m}がなぜ自転車を返さないのか、誰も知りません。", "来週、{n}は電車に乗って北の町へ行く予定です。",
        "{n}はいつも{m}との仕事についてたくさん話してくれます。", "{m}がもう買い物から帰ったかどうか聞いてください。",
        "{n}の知っている子どもたちは、午後になると外で遊びます。", "夕食の後、{n}と{m}は森の中を長い間散歩しました。",
    ),
    "zh": (
        "昨天{n}和{m}一起参观了那座古老的博物馆。", "今天的天气非常不好，{n}这样说。",
        "{m}和父母一起住在河边的一座小房子里。", "我们很想在这里多住几天，{n}在信里写道。",
        "没有人知道{m}为什么还没有把自行车还回来。", "下个星期{n}要坐火车到北方去旅行。",
        "{n}总是有很多关于工作的事情要告诉{m}。", "你能不能问一问{m}从商店回来了没有？",
        "{n}认识的孩子们下午常常在外面玩。", "吃完晚饭以后，{n}和{m}在树林里散步散了很久。",
    ),
}  # fmt: skip

SPAM = {
    "en": (("casino", "bonus", "jackpot", "poker", "viagra", "pills", "cheap", "loan", "discount", "free"),
           ("Click here now!", "Buy cheap pills online!", "Win the casino jackpot today!", "Limited offer, order now!!!")),
    "pt": (("cassino", "bônus", "apostas", "pôquer", "viagra", "comprimidos", "barato", "empréstimo", "desconto", "grátis"),
           ("Clique aqui agora!", "Compre comprimidos baratos!", "Ganhe dinheiro no cassino hoje!",
           "Oferta limitada, peça já!!!")),
    "es": (("casino", "bono", "apuestas", "póker", "viagra", "pastillas", "barato", "préstamo", "descuento", "gratis"),
           ("¡Haz clic aquí ahora!", "¡Compra pastillas baratas!", "¡Gana dinero en el casino hoy!",
           "¡Oferta limitada, pide ya!!!")),
    "fr": (("casino", "bonus", "paris", "poker", "viagra", "pilules", "pas cher", "crédit", "remise", "gratuit"),
           ("Cliquez ici maintenant!", "Achetez des pilules pas cher!", "Gagnez au casino aujourd'hui!",
           "Offre limitée, commandez!!!")),
    "de": (("Casino", "Bonus", "Wetten", "Poker", "Viagra", "Pillen", "billig", "Kredit", "Rabatt", "gratis"),
           ("Jetzt hier klicken!", "Billige Pillen online kaufen!", "Heute im Casino gewinnen!",
           "Nur heute, jetzt bestellen!!!")),
    "it": (("casinò", "bonus", "scommesse", "poker", "viagra", "pillole", "economico", "prestito", "sconto", "gratis"),
           ("Clicca qui adesso!", "Compra pillole a poco prezzo!", "Vinci al casinò oggi!", "Offerta limitata, ordina ora!!!")),
    "hi": (("कैसीनो", "बोनस", "जुआ", "पोकर", "वियाग्रा", "गोलियाँ", "सस्ता", "लोन", "छूट", "मुफ़्त"),
           ("अभी यहाँ क्लिक करें!", "सस्ती गोलियाँ ऑनलाइन खरीदें!", "आज कैसीनो में पैसे जीतें!",
           "सीमित ऑफ़र, अभी ऑर्डर करें!!!")),
    "th": (("คาสิโน", "โบนัส", "พนัน", "โป๊กเกอร์", "ไวอากร้า", "ยาเม็ด", "ราคาถูก", "เงินกู้", "ส่วนลด", "ฟรี"),
           ("คลิก ที่นี่ เดี๋ยวนี้!", "ซื้อ ยาเม็ด ราคาถูก!", "ชนะ เงิน คาสิโน วันนี้!", "ข้อเสนอ จำกัด สั่งซื้อ เลย!!!")),
}  # fmt: skip
