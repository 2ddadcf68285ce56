"""Word lists for `puna.data.spam`: what adverts and adult pages say, by language. Data only; every entry may be one word or a
phrase.

Written for this project. Words that honest pages about trade use as often (price, buy, money) are left out. ADVERTS holds
selling phrases and the goods that unwanted pages sell; DIRTY holds the words of adult pages, the mild forms included, because
it is their density that counts and not one occurrence (Raffel et al. 2020 dropped on one).
"""

from __future__ import annotations

ADVERTS = {
    "en": """buy now; order now; shop now; click here; sign up now; act now; call now; limited offer; limited time; special
        offer; best price; best prices; lowest price; lowest prices; low price; great deals; best deals; hot deals; free
        shipping; free trial; free bonus; free gift; money back; risk free; no risk; 100 free; satisfaction guaranteed;
        guaranteed; guarantee; discount; discounts; coupon; coupons; voucher; promo; promo code; bonus; jackpot; casino;
        casinos; poker; roulette; slots; betting; lottery; you won; prize; prizes; earn money; make money; easy money;
        fast cash; extra income; get rich; work from home; loan; loans; payday; credit score; mortgage; refinance;
        bitcoin; crypto; forex; pills; viagra; cialis; pharmacy; weight loss; lose weight; diet; miracle; replica;
        replicas; rolex; handbags; cheap; cheapest; for sale; clearance; wholesale; deals; hurry; don't miss; while
        stocks last; subscribe; unsubscribe; dating; singles; seo; backlinks; followers; instantly; exclusive; amazing;
        incredible; unbeatable; save up to; 50 off; 70 off; 90 off; today only; last chance; luxury; watches; offer ends""",
    "de": """jetzt kaufen; jetzt bestellen; hier klicken; klicken sie hier; klick hier; nur heute; nur für kurze zeit;
        angebot; angebote; sonderangebot; bester preis; beste preise; bestpreis; günstig; billig; am billigsten; gratis;
        kostenlos; versandkostenfrei; rabatt; rabatte; gutschein; gutscheine; gutscheincode; bonus; jackpot; casino;
        kasino; poker; roulette; wetten; lotto; lotterie; sie haben gewonnen; geld verdienen; schnelles geld; reich
        werden; kredit; kredite; sofortkredit; darlehen; schufa; hypothek; bitcoin; krypto; viagra; pillen; apotheke;
        abnehmen; diät; wunder; wundermittel; replika; schnäppchen; ausverkauf; garantie; garantiert; geld zurück; ohne
        risiko; exklusiv; einmalig; unglaublich; letzte chance; nicht verpassen; zuschlagen; luxus; abonnieren;
        partnersuche; singles; sie sparen""",
    "fr": """achetez maintenant; achetez; commandez maintenant; commandez; cliquez ici; cliquez; offre spéciale; offre
        limitée; offre; offres; meilleur prix; meilleurs prix; pas cher; bon marché; gratuit; gratuits; gratuite;
        livraison gratuite; promo; promotion; promotions; solde; remise; réduction; réductions; code promo; bon plan;
        bonus; jackpot; casino; poker; roulette; paris; loterie; gagnez; vous avez gagné; argent facile; gagner de
        l'argent; devenir riche; crédit rapide; hypothèque; bitcoin; crypto; viagra; pilules; pharmacie; maigrir;
        minceur; perdre du poids; régime; miracle; réplique; luxe; garanti; satisfait ou remboursé; sans risque;
        exclusif; exclusive; incroyable; dernière chance; dépêchez-vous; ne manquez pas; aujourd'hui seulement; abonnez-
        vous; rencontres; célibataires""",
    "it": """compra ora; compra subito; acquista ora; acquista; ordina ora; ordina subito; clicca qui; clicca; offerta;
        offerte; offerta speciale; offerta limitata; miglior prezzo; migliori prezzi; a buon mercato; gratis; gratuito;
        gratuita; spedizione gratuita; sconto; sconti; buono sconto; coupon; codice sconto; promozione; promozioni;
        saldi; bonus; jackpot; casinò; casino; poker; roulette; scommesse; lotteria; vinci; hai vinto; soldi facili;
        guadagna; diventa ricco; prestito; prestiti; mutuo; bitcoin; cripto; viagra; pillole; farmacia; dimagrire;
        dimagrisci; dieta; miracolo; miracolosa; replica; repliche; lusso; garantito; garantita; soddisfatti o
        rimborsati; senza rischi; esclusivo; esclusiva; incredibile; ultima occasione; ultima possibilità; affrettati;
        non perdere; solo oggi; iscriviti; single""",
    "pt": """compre agora; compre já; peça agora; peça já; encomende; clique aqui; clique; oferta; ofertas; oferta especial;
        oferta limitada; melhor preço; melhores preços; barato; baratos; mais barato; grátis; de graça; gratuito; frete
        grátis; desconto; descontos; cupom; cupão; código promocional; promoção; promoções; liquidação; bônus; bónus;
        jackpot; cassino; casino; pôquer; poker; roleta; apostas; aposta; loteria; ganhe; você ganhou; prêmios; dinheiro
        fácil; dinheiro rápido; ganhe dinheiro; fique rico; renda extra; empréstimo; empréstimos; hipoteca; bitcoin;
        cripto; viagra; pílulas; comprimidos; farmácia; emagrecer; emagreça; perder peso; dieta; milagre; milagroso;
        réplica; réplicas; luxo; garantido; garantida; garantia; satisfação garantida; sem risco; exclusivo; exclusiva;
        incrível; última chance; últimas unidades; não perca; só hoje; agora mesmo; assine; solteiros""",
    "es": """compra ahora; compre ahora; compra ya; pide ahora; pida ahora; ordene ahora; haz clic aquí; haga clic; clic; haz
        clic; oferta; ofertas; oferta especial; oferta limitada; mejor precio; mejores precios; barato; baratos; más
        barato; gratis; gratuito; envío gratis; descuento; descuentos; cupón; cupones; código promocional; promoción;
        promociones; rebajas; liquidación; bonos; jackpot; casino; casinos; póker; poker; ruleta; apuestas; apuesta;
        lotería; has ganado; usted ha ganado; dinero fácil; dinero rápido; gana dinero; hazte rico; préstamo; préstamos;
        hipoteca; bitcoin; cripto; viagra; pastillas; píldoras; farmacia; adelgazar; adelgaza; perder peso; dieta;
        milagro; milagroso; réplica; réplicas; lujo; garantizado; garantizada; garantía; satisfacción garantizada; sin
        riesgo; exclusivo; exclusiva; increíble; última oportunidad; no te lo pierdas; no se lo pierda; solo hoy; sólo
        hoy; suscríbete; solteros""",
    "hi": """अभी खरीदें; अभी ख़रीदें; यहाँ क्लिक करें; यहां क्लिक करें; क्लिक करें; क्लिक; अभी ऑर्डर करें; ऑर्डर करें; ऑर्डर;
        ऑफर; ऑफ़र; सीमित ऑफर; विशेष ऑफर; विशेष छूट; छूट; भारी छूट; डिस्काउंट; कूपन; सेल; सस्ता; सस्ती; सस्ते; सबसे
        सस्ता; कम कीमत; सबसे कम दाम; मुफ्त; मुफ़्त; फ्री; बोनस; जीतें; जीतिए; जीतो; आपने जीता; लॉटरी; कैसीनो; जुआ;
        सट्टा; पोकर; जैकपॉट; पैसे कमाएं; पैसे कमाएँ; कमाएं; कमाएँ; अमीर बनें; लोन; क्रेडिट; बिटकॉइन; वियाग्रा; गोलियां;
        गोलियाँ; वजन घटाएं; वज़न घटाएँ; चमत्कारी; गारंटी; पक्की गारंटी; बिना जोखिम; जल्दी करें; आज ही; केवल आज; सिर्फ
        आज; आखिरी मौका; आख़िरी मौका; मौका न चूकें; घर बैठे; घड़ियां; लक्जरी""",
    "th": """ซื้อเลย; ซื้อ เลย; ซื้อทันที; ซื้อตอนนี้; สั่งซื้อ; สั่งเลย; สั่งซื้อเลย; คลิกที่นี่; คลิก; คลิกเลย; โปรโมชั่น;
        ข้อเสนอ; ข้อเสนอพิเศษ; จำกัดเวลา; เวลาจำกัด; ราคาถูก; ถูกที่สุด; ราคาพิเศษ; ลดราคา; ส่วนลด; คูปอง; ฟรี; ส่งฟรี;
        จัดส่งฟรี; แจกฟรี; โบนัส; แจ็คพอต; แจ็กพอต; คาสิโน; บาคาร่า; สล็อต; โป๊กเกอร์; รูเล็ต; แทงบอล; หวย; ลอตเตอรี่;
        เดิมพัน; ของรางวัล; ผู้โชคดี; เงินด่วน; หาเงิน; รายได้เสริม; รวยเร็ว; เงินกู้; สินเชื่อ; กู้เงิน; บิตคอยน์;
        คริปโต; ไวอากร้า; ยาลดน้ำหนัก; ลดน้ำหนัก; ลดความอ้วน; ปาฏิหาริย์; รับประกัน; การันตี; ไม่มีความเสี่ยง; รีบเลย;
        อย่าพลาด; วันนี้เท่านั้น; โอกาสสุดท้าย; สมัครเลย; สมัครวันนี้; หรูหรา; แบรนด์เนม""",
}

DIRTY = {
    "en": """porn; porno; xxx; sex; sexy; nude; nudes; naked; milf; hentai; escort; escorts; fetish; hardcore; erotic; horny;
        pussy; cock; dick; tits; boobs; ass; slut; whore; fuck; fucking; blowjob; cum; anal; webcam girls; camgirl;
        onlyfans leak; orgasm; bitch; shit""",
    "de": """porno; pornos; sex; sexy; nackt; nackte; fick; ficken; titten; schlampe; nutte; hure; schwanz; muschi; geil;
        geile; erotik; fotze; arsch; scheiße; sexkontakte; orgasmus""",
    "fr": """porno; sexe; sexy; nue; nues; baise; baiser; salope; pute; bite; chatte; seins; érotique; cul; putain; merde;
        escort; orgasme; coquine""",
    "it": """porno; sesso; sexy; nuda; nude; scopare; troia; puttana; cazzo; figa; tette; erotico; culo; merda; escort;
        orgasmo; vaffanculo""",
    "pt": """pornô; porno; sexo; sexy; nua; nuas; foder; puta; vadia; caralho; buceta; peitos; erótico; bunda; cu; merda;
        acompanhantes; orgasmo""",
    "es": """porno; sexo; sexy; desnuda; desnudas; follar; puta; zorra; polla; coño; tetas; erótico; culo; mierda; escorts;
        orgasmo; joder""",
    "hi": """पोर्न; सेक्स; सेक्सी; नंगी; नंगा; चुदाई; रंडी; लंड; चूत; अश्लील; कामुक; गांड""",
    "th": """โป๊; หนังโป๊; เซ็กส์; เซ็กซี่; เปลือย; เย็ด; ควย; หี; กะหรี่; คลิปหลุด; หื่น; เงี่ยน""",
}
